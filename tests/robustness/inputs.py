"""The kinds of input that are damaged, and the commands that read them."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save as save_safetensors
from tests.conftest import TINY, UNTRAINED, picture, write_labelled
from tests.robustness.harness import Commands, Kind
from tests.robustness.mutations import TOKENS, WORDS, damage_bytes, damage_text, damage_value

from picie.config import Config, all_sections, load, preset_names, preset_text, to_toml
from picie.models.backbones import TimmBackbone
from picie.training import api

_FORMATS = {
    ".png": {}, ".jpg": {}, ".bmp": {}, ".gif": {}, ".webp": {}, ".ppm": {},
    ".tif": {"compression": "tiff_lzw"}, ".tiff": {}, ".tga": {}, ".jp2": {}, ".dds": {}, ".ico": {}, ".avif": {},
}  # fmt: skip
_SAFE = ("--bootstrap", 0)


def prepare(source: Path) -> Path:
    """Write what the cases start from, a labelled folder, a run, predictions and weights, to `source`."""
    data = write_labelled(source / "data")
    api.train(load(None, None, [*TINY, f"data.root={data}"]), source / "run")
    predictions = source / "predictions"
    predictions.mkdir()
    for label in (data / "labels" / "val").iterdir():
        shutil.copy(label, predictions / label.name)
    weights = TimmBackbone("test_efficientnet", pretrained=False).net.state_dict()
    torch.save(weights, source / "weights.pth")
    (source / "weights.safetensors").write_bytes(save_safetensors({n: w.contiguous() for n, w in weights.items()}))
    return source


def _run_copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source / "run", folder / "run"))


def _encoded(suffix: str, rng: random.Random) -> bytes:
    array, label = picture(rng.randrange(3), (40, 32))
    mode = rng.choice(("RGB", "RGB", "L", "I;16", "RGBA", "P"))
    image = Image.fromarray(label if mode in {"L", "P"} else array)
    if mode == "I;16":
        image = Image.fromarray(label.astype("uint16") * 300)
    elif mode in {"RGBA", "P"}:
        image = image.convert(mode)
    buffer = io.BytesIO()
    try:
        image.save(buffer, Image.registered_extensions()[suffix], **_FORMATS[suffix])
    except (OSError, KeyError, ValueError):  # a mode that the format lacks, or a format that Pillow was built without
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(source: Path, folder: Path, rng: random.Random) -> Commands:
    photos = folder / "photos"
    photos.mkdir()
    for number in range(2):
        suffix = rng.choice(list(_FORMATS))
        (photos / f"{number}{suffix}").write_bytes(damage_bytes(_encoded(suffix, rng), rng))
    run = source / "run"
    commands: list[list[object]] = [["predict", run, "photos", "--out", "out"]]
    if rng.random() < 0.15:
        shutil.copy(next((source / "data" / "images" / "val").iterdir()), photos / "good.jpg")
        commands.append(["train", "photos", "--out", "new", *UNTRAINED])
    return commands


def label_maps(source: Path, folder: Path, rng: random.Random) -> Commands:
    data = Path(shutil.copytree(source / "data", folder / "data"))
    label = rng.choice(sorted((data / "labels" / "val").iterdir()))
    label.write_bytes(damage_bytes(label.read_bytes() if rng.random() < 0.5 else _encoded(".png", rng), rng))
    if rng.random() < 0.3:
        return [["evaluate", source / "run", "--data", "data", "--no-record", *_SAFE]]
    scored = (
        ["score", source / "predictions", "data/labels/val"]
        if rng.random() < 0.5
        else ["score", "data/labels/val", "data/labels/val"]
    )
    return [[*scored, "--classes", "data/classes.toml", *_SAFE]]


def classes_toml(source: Path, folder: Path, rng: random.Random) -> Commands:
    content = damage_text((source / "data" / "classes.toml").read_text("utf-8"), rng)
    if rng.random() < 0.2:
        data = Path(shutil.copytree(source / "data", folder / "data"))
        (data / "classes.toml").write_bytes(content)
        return [["evaluate", source / "run", "--data", "data", "--no-record", *_SAFE]]
    (folder / "classes.toml").write_bytes(content)
    return [["score", source / "predictions", source / "data/labels/val", "--classes", "classes.toml", *_SAFE]]


def config_toml(source: Path, folder: Path, rng: random.Random) -> Commands:
    config = load(None, None, [*UNTRAINED, f"data.root={source / 'data'}"])
    (folder / "config.toml").write_bytes(damage_text(to_toml(config), rng))
    return [["train", "--config", "config.toml", "--out", "new", "run.device=cpu", "train.epochs=0", "run.report=false"]]


def presets(source: Path, folder: Path, rng: random.Random) -> Commands:
    if rng.random() < 0.2:
        name = rng.choice((*preset_names(), *map(str, WORDS)))
        damaged = damage_text(name, rng).decode("utf-8", "replace").replace("\x00", "0")
        return [["train", source / "data", "--preset", damaged, "--out", "new", *UNTRAINED]]
    (folder / "preset.toml").write_bytes(damage_text(preset_text(rng.choice(preset_names())), rng))
    return [["train", source / "data", "--config", "preset.toml", "--out", "new", "data.name=folder", *UNTRAINED]]


def option_values(source: Path, folder: Path, rng: random.Random) -> Commands:
    keys = [f"{name}.{key}" for name, section in all_sections().items() for key in section.model_fields]
    keys += [key for key in Config.model_fields if key not in all_sections()]
    options = dict(option.split("=", 1) for option in UNTRAINED)
    for key in rng.sample(keys, rng.choice((1, 1, 2))):
        if key not in {"run.device", "data.root"}:
            options[key] = rng.choice((
                *("0", "1", "-1", "2", "3", "17", "65535", "65536", "1000000", "1e9", "10000000000000", "1e-320", "nan", "inf"),
                *("true", "", "[]", "{}", "[[]]", '""', "blur", "crop,hflip", "{name='crop'}", "[{name='blur', p=2}]", "a:b", "json:x"),
                *("[{name='crop', scale=[0, 0]}]", "[{name='blur', sigma=[1, 'x']}]", "none", "1.5", "[1, 2]", *TOKENS),
            )).replace("\x00", "0")  # fmt: skip
    return [["train", source / "data", "--out", "new", *(f"{key}={value}" for key, value in options.items())]]


def checkpoints(source: Path, folder: Path, rng: random.Random) -> Commands:
    run = _run_copy(source, folder)
    file = run / "checkpoint.pt"
    if rng.random() < 0.15:
        file.write_bytes(damage_bytes(file.read_bytes(), rng))
    else:
        torch.save(_damaged_state(torch.load(file, weights_only=True), rng), file)
    photo = next((source / "data" / "images" / "val").iterdir())
    return [rng.choice((
        ["predict", run, photo, "--out", "out"], ["predict", run, photo, "--out", "out"],
        ["evaluate", run, "--no-record", *_SAFE], ["evaluate", run, *_SAFE], ["name", run, "0=sky"], ["name", run],
        ["train", "--resume", run, "train.epochs=3"], ["report", run], ["compare", run],
        ["neighbors", run, photo, 3, 3, "--in", source / "data" / "images" / "val"],
        ["clusters", "suggest-k", run, "--from", 2, "--to", 4],
    ))]  # fmt: skip


def _damaged_state(state: dict[str, Any], rng: random.Random) -> Any:
    section = rng.choice((None, "config", "matching", "classifier", "method"))
    if section is None or not isinstance(state.get(section), dict):
        return damage_value(state, rng)
    return {**state, section: damage_value(state[section], rng)}


def _damaged_record(source: Path, folder: Path, rng: random.Random, name: str) -> Path:
    run = _run_copy(source, folder)
    file = run / name
    text = file.read_text("utf-8")
    if rng.random() < 0.6:
        lines = text.splitlines() if name.endswith("l") else [text]
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(damage_value(json.loads(lines[at]), rng), default=str)
        file.write_text("\n".join(lines) + "\n", "utf-8", "surrogatepass")
    else:
        file.write_bytes(damage_text(text, rng))
    return run


def metrics(source: Path, folder: Path, rng: random.Random) -> Commands:
    run = _damaged_record(source, folder, rng, "metrics.jsonl")
    return [
        rng.choice(
            (["compare", run, source / "run"], ["compare", run], ["report", run], ["train", "--resume", run, "train.epochs=3"])
        )
    ]


def run_json(source: Path, folder: Path, rng: random.Random) -> Commands:
    run = _damaged_record(source, folder, rng, "run.json")
    return [
        rng.choice(
            (["compare", run, source / "run"], ["compare", run], ["report", run], ["train", "--resume", run, "train.epochs=3"])
        )
    ]


def names_file(source: Path, folder: Path, rng: random.Random) -> Commands:
    run = _run_copy(source, folder)
    segments = "\n".join(f'[[segments]]\nname = "n{i}"\ncolor = "#0{i}0000"\nclusters = [{i}]\n' for i in range(3))
    (folder / "names.toml").write_bytes(damage_text(segments, rng))
    words = [
        damage_text(rng.choice(("0=sky", "1=sea:#0000ff", "0:2", "0,1=land")), rng).decode("utf-8", "replace") for _ in range(2)
    ]
    word, other = (w.replace("\x00", "0") for w in words)
    return [rng.choice((
        ["name", run, "--file", "names.toml"], ["name", run, "--file", "names.toml"], ["name", run, "--", word],
        ["name", run, f"--merge={word}"], ["name", run, f"--split={other}"], ["name", run, f"--merge-to={other}"], ["name", run, f"--k={other}"],
    ))]  # fmt: skip


def predictions_json(source: Path, folder: Path, rng: random.Random) -> Commands:
    out = folder / "out"
    out.mkdir()
    names = sorted(path.name for path in (source / "data" / "images" / "val").iterdir())
    record = {
        "run": str(source / "run"), "names": ["a", "b", "c"], "colors": ["#000000"] * 3,
        "images": [{"image": name, "labels": f"{name[:3]}.png", "overlay": f"{name[:3]}_overlay.jpg", "shares": [0.5, 0.5, 0]} for name in names],
    }  # fmt: skip
    text = json.dumps(record, indent=2)
    damaged = json.dumps(damage_value(record, rng), default=str).encode() if rng.random() < 0.5 else damage_text(text, rng)
    (out / "predictions.json").write_bytes(damaged)
    return [["predict", source / "run", source / "data" / "images" / "val", "--out", "out"]]


def pseudo_labels(source: Path, folder: Path, rng: random.Random) -> Commands:
    run = _run_copy(source, folder)
    file = run / "pseudo_labels.npy"
    if rng.random() < 0.5:
        file.write_bytes(damage_bytes(file.read_bytes(), rng))
    else:
        _write_other_array(file, rng)
    return [rng.choice((["report", run], ["train", "--resume", run, "train.epochs=3"]))]


def _write_other_array(file: Path, rng: random.Random) -> None:
    import numpy as np

    labels = np.load(file)
    changed = rng.choice((
        labels + 200, labels.astype("float32"), labels[:1], labels[:, :2], labels.ravel(), labels[..., None], labels.astype("int64") - 5,
        np.zeros(0), np.array("x"), np.zeros(labels.shape, "datetime64[s]"),
    ))  # fmt: skip
    np.save(file, changed)


def weights(source: Path, folder: Path, rng: random.Random) -> Commands:
    suffix = rng.choice((".pth", ".pth", ".safetensors"))
    content, file = (source / f"weights{suffix}").read_bytes(), folder / f"weights{suffix}"
    if suffix == ".safetensors" or rng.random() < 0.3:
        file.write_bytes(damage_bytes(content, rng))
    else:
        state = damage_value(dict(torch.load(io.BytesIO(content), weights_only=True)), rng)
        torch.save(rng.choice((state, {"state_dict": state}, {"model": {"model": state}}, [state])), file)
    options = [option for option in UNTRAINED if not option.startswith("model.pretrained")]
    return [["train", source / "data", "--out", "new", *options, f"model.weights={file.name}"]]


KINDS: dict[str, Kind] = {
    function.__name__: function
    for function in (
        pictures, label_maps, classes_toml, config_toml, presets, option_values, checkpoints, metrics, run_json, names_file,
        predictions_json, pseudo_labels, weights,
    )
}  # fmt: skip
