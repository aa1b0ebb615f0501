"""Kinds of mutated inputs: each writes one into a temporary folder and returns the command that reads it."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tomli_w
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.conftest import TINY, UNTRAINED, picture, write_labelled
from tests.inference.test_import_published import hollow_content
from tests.robustness.mutate import OPTION_VALUES, Rng, change_bytes, change_values

from picie.config import Config, all_sections, load
from picie.errors import Stopped
from picie.inference.predict import predict_files
from picie.models.extractor import Extractor
from picie.naming.changes import write_names
from picie.training import api
from picie.training.trainer import Trainer

Command = list[object]
FORMATS = ("jpg", "png", "bmp", "tif", "gif", "webp", "ppm", "jp2")
MODES = ("RGB", "L", "P", "RGBA", "1", "I;16")


@dataclass(frozen=True)
class Fixture:
    """Valid inputs to mutate, in a temporary folder that holds everything that is written.

    Attributes:
        folder: the temporary folder.
        data: a labelled folder of 6 + 2 tiny pictures.
        run: a finished run on it, with named segments.
        stopped: a run that was stopped within an epoch, which needs its pseudo-labels to go on.
        predictions: what `picie predict` wrote for its validation images.
        weights: the state of its backbone.
    """

    folder: Path
    data: Path
    run: Path
    stopped: Path
    predictions: Path
    weights: dict[str, torch.Tensor]


def make_fixture(folder: Path) -> Fixture:
    """Write the valid inputs into `folder`."""
    data = write_labelled(folder / "data")
    settings = load(None, None, [*TINY, f"data.root={json.dumps(str(data))}"])
    run = api.train(settings, folder / "run")
    stopped = _stop_within_an_epoch(settings, folder / "stopped")
    backbone = Extractor(settings.model, pretrained=False).backbone.state_dict()
    weights = {name.removeprefix("net."): tensor for name, tensor in backbone.items()}
    predict_files(run, [data / "images" / "val"], folder / "predictions")
    return Fixture(folder, data, run, stopped, folder / "predictions", weights)


def _stop_within_an_epoch(settings: Config, out: Path) -> Path:
    step = Trainer._step

    def last_step(self: Trainer, *batch: Any) -> None:
        step(self, *batch)
        signal.raise_signal(signal.SIGTERM)

    with patch.object(Trainer, "_step", last_step), contextlib.suppress(Stopped):
        api.train(settings, out)
    return out


def _photo(fixture: Fixture, place: Path, rng: Rng) -> Command:
    file = place / f"photo.{rng.choice(FORMATS)}"
    Image.fromarray(picture(int(rng.integers(0, 9)))[0]).save(file)
    file.write_bytes(change_bytes(file.read_bytes(), rng))
    return ["predict", fixture.run, file, "--out", place / "out"]


def _labels(fixture: Fixture, place: Path, rng: Rng) -> Command:
    data = Path(shutil.copytree(fixture.data, place / "data"))
    file = data / "labels" / "val" / "100.png"
    if rng.random() < 0.6:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    else:
        size = tuple(int(n) for n in rng.choice([1, 48, 64, 3000], 2))
        values = Image.fromarray(rng.integers(0, int(rng.choice([2, 5, 256])), size[::-1], dtype=np.uint8))
        values.convert(str(rng.choice(MODES[:5]))).save(file)
    return ["evaluate", fixture.run, "--data", data, "--bootstrap", "3"]


def _classes(fixture: Fixture, place: Path, rng: Rng) -> Command:
    data = Path(shutil.copytree(fixture.data, place / "data"))
    _spoil_toml(data / "classes.toml", rng)
    return ["evaluate", fixture.run, "--data", data, "--bootstrap", "3"]


def _config(fixture: Fixture, place: Path, rng: Rng) -> Command:
    file = place / "config.toml"
    options = [option for option in UNTRAINED if not option.startswith("train.epochs")]
    config = load(None, None, options).model_dump(mode="json", exclude_none=True)
    config = {key: value for key, value in config.items() if key != "data"}
    file.write_text(tomli_w.dumps(config), "utf-8")
    _spoil_toml(file, rng)
    return ["train", fixture.data, "--config", file, "--out", place / "new", "train.epochs=0", "run.report=false"]


def _option(fixture: Fixture, place: Path, rng: Rng) -> Command:
    sections = all_sections()
    keys = [key for key in Config.model_fields if key not in sections]
    keys += [f"{name}.{key}" for name, section in sections.items() for key in section.model_fields]
    key = str(rng.choice(sorted(set(keys) - {"train.epochs"})))  # more epochs take longer, as they should
    rest = [option for option in UNTRAINED if option.partition("=")[0] != key]
    if key.startswith("mdc."):
        rest.append("method=mdc")
    return ["train", fixture.data, *rest, f"{key}={rng.choice(OPTION_VALUES)}", "--out", place / "new"]


def _flag(fixture: Fixture, place: Path, rng: Rng) -> Command:
    value = str(rng.choice(OPTION_VALUES))
    images = fixture.data / "images" / "val"
    commands: list[Command] = [
        ["evaluate", fixture.run, "--bootstrap", value],
        ["evaluate", fixture.run, f"--split={value}"],
        ["evaluate", fixture.run, f"--matching={value}"],
        ["evaluate", fixture.run, f"--device={value}", "--bootstrap", "3"],
        ["evaluate", fixture.run, f"evaluate.size={value}", "--bootstrap", "3"],
        ["score", fixture.data / "labels" / "val", fixture.data / "labels" / "val", f"--classes={value}"],
        ["score", *[fixture.data / "labels" / "val"] * 2, "--classes", fixture.data / "classes.toml", f"--unpredicted={value}"],
        ["neighbors", fixture.run, images / "100.jpg", value, "3", "--in", images, "--out", place / "n.png"],
        ["neighbors", fixture.run, images / "100.jpg", "3", "3", "--in", images, f"-k={value}", "--out", place / "n.png"],
        ["name", _own_run(fixture, place), value],
        ["name", _own_run(fixture, place), f"0={value}"],
        ["name", _own_run(fixture, place), f"--merge={value}"],
        ["name", _own_run(fixture, place), f"--split={value}"],
        ["name", _own_run(fixture, place), f"--merge-to={value}"],
        ["name", _own_run(fixture, place), f"--k={value}"],
        ["ablate", fixture.data, "--out", place / "ablation", f"--vary={value}", *UNTRAINED],
        ["compare", fixture.run, value],
        ["list", value],
    ]
    command = commands[int(rng.integers(0, len(commands)))]
    return command if rng.random() < 0.9 else [*command, value]


def _checkpoint(fixture: Fixture, place: Path, rng: Rng) -> Command:
    run = _own_run(fixture, place)
    file = run / "checkpoint.pt"
    if rng.random() < 0.15:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    else:
        torch.save(change_values(torch.load(file, weights_only=True), rng), file)
    return _read_run(fixture, run, place, rng)


def _metrics(fixture: Fixture, place: Path, rng: Rng) -> Command:
    run = _own_run(fixture, place)
    file = run / "metrics.jsonl"
    if rng.random() < 0.3:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    else:
        lines = change_values([json.loads(line) for line in file.read_text("utf-8").splitlines()], rng)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return _read_records(fixture, run, place, rng)


def _record(fixture: Fixture, place: Path, rng: Rng) -> Command:
    run = _own_run(fixture, place)
    _spoil_json(run / "run.json", rng)
    return _read_records(fixture, run, place, rng)


def _names(fixture: Fixture, place: Path, rng: Rng) -> Command:
    file = place / "names.toml"
    write_names(fixture.run, file)
    _spoil_toml(file, rng)
    return ["name", _own_run(fixture, place), "--file", file]


def _predictions(fixture: Fixture, place: Path, rng: Rng) -> Command:
    out = Path(shutil.copytree(fixture.predictions, place / "out"))
    _spoil_json(out / "predictions.json", rng)
    return ["predict", fixture.run, fixture.data / "images" / "val", "--out", out]


def _pseudo_labels(fixture: Fixture, place: Path, rng: Rng) -> Command:
    run = Path(shutil.copytree(fixture.stopped, place / "run"))
    file = run / "pseudo_labels.npy"
    if rng.random() < 0.5:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    else:
        labels = np.load(file)
        shapes = (labels.shape, labels.shape[1:], (0, *labels.shape[1:]), (2, 3), (1,))
        types = (labels.dtype, np.float32, np.int64, np.bool_, np.dtype("U3"))
        shape = shapes[int(rng.integers(0, len(shapes)))]
        np.save(file, rng.integers(0, 300, shape).astype(types[int(rng.integers(0, len(types)))]))
    return ["report", run, "--out", place / "r.html"] if rng.random() < 0.2 else ["train", "--resume", run]


def _weights(fixture: Fixture, place: Path, rng: Rng) -> Command:
    file = place / f"weights.{rng.choice(['pth', 'safetensors'])}"
    if file.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in fixture.weights.items()}, file)
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    elif rng.random() < 0.15:
        torch.save(fixture.weights, file)
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    else:
        state: Any = dict(fixture.weights)
        wrapped = ({"state_dict": state}, {"model": state}, {f"module.{name}": tensor for name, tensor in state.items()}, state)
        torch.save(change_values(wrapped[int(rng.integers(0, len(wrapped)))], rng), file)
    rest = [option for option in UNTRAINED if not option.startswith("model.pretrained")]
    return ["train", fixture.data, *rest, f"model.weights={file}", "--out", place / "new"]


def _published(fixture: Fixture, place: Path, rng: Rng) -> Command:
    file = place / "published.pth"
    torch.save(change_values(hollow_content(), rng), file)
    if rng.random() < 0.3:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    return ["import-checkpoint", file, "--out", place / "new"]


def _own_run(fixture: Fixture, place: Path) -> Path:
    run = place / "run"
    return run if run.exists() else Path(shutil.copytree(fixture.run, run))


def _read_run(fixture: Fixture, run: Path, place: Path, rng: Rng) -> Command:
    images = fixture.data / "images" / "val"
    commands: list[Command] = [
        ["evaluate", run, "--bootstrap", "3"],
        ["predict", run, images, "--out", place / "out"],
        ["name", run],
        ["name", run, "0=sky:#0000ff"],
        ["train", "--resume", run, "train.epochs=3", "run.report=false"],
        ["neighbors", run, images / "100.jpg", "3", "4", "--in", images, "--out", place / "n.png"],
        ["report", run, "--out", place / "report.html"],
        ["compare", run, fixture.run],
    ]
    return commands[int(rng.integers(0, len(commands)))]


def _read_records(fixture: Fixture, run: Path, place: Path, rng: Rng) -> Command:
    commands: list[Command] = [
        ["report", run, "--out", place / "report.html"],
        ["compare", run, fixture.run],
        ["train", "--resume", run, "train.epochs=3", "run.report=false"],
    ]
    return commands[int(rng.integers(0, len(commands)))]


def _spoil_toml(file: Path, rng: Rng) -> None:
    if rng.random() < 0.3:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
        return
    values = _without_none(change_values(tomllib.loads(file.read_text("utf-8")), rng))
    try:
        file.write_text(tomli_w.dumps(values), "utf-8")
    except (TypeError, ValueError):  # a value that TOML cannot hold
        file.write_bytes(change_bytes(file.read_bytes(), rng))


def _without_none(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _without_none(value) for key, value in values.items() if value is not None}
    return [_without_none(value) for value in values if value is not None] if isinstance(values, list) else values


def _spoil_json(file: Path, rng: Rng) -> None:
    if rng.random() < 0.3:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    else:
        file.write_text(json.dumps(change_values(json.loads(file.read_text("utf-8")), rng)), "utf-8")


KINDS: dict[str, Callable[[Fixture, Path, Rng], Command]] = {
    "photo": _photo,
    "label map": _labels,
    "classes.toml": _classes,
    "config.toml": _config,
    "option": _option,
    "flag": _flag,
    "checkpoint.pt": _checkpoint,
    "metrics.jsonl": _metrics,
    "run.json": _record,
    "names file": _names,
    "predictions.json": _predictions,
    "pseudo_labels.npy": _pseudo_labels,
    "weights": _weights,
    "published checkpoint": _published,
}
