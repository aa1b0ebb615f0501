"""A checkpoint of the published code becomes a run that computes what the published network computes, and runs nothing."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.conftest import NAMES, checkpoint_of
from tests.reference.published_network import PublishedNetwork, file_content, hollow_content, random_network, write
from torch.nn import functional as F

from picie import Segmenter
from picie.config import load
from picie.errors import InputError
from picie.inference.import_published import _architecture, _Published, import_checkpoint
from picie.runtime import checkpoint

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]
K = 5


@pytest.fixture(scope="module")
def network() -> PublishedNetwork:
    return random_network("resnet18", 16)


@pytest.fixture(scope="module")
def run(network: PublishedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    content = file_content(network, K, arch="resnet18", in_dim=16, K_train=K, lr=1e-4, seeds=[1, 2], resume=None)
    return import_checkpoint(write(folder / "published.pth.tar", content), folder / "run")


def images(*size: int) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_same_features(run: Path, network: PublishedNetwork) -> None:
    segmenter = Segmenter.load(run, "cpu")
    assert not segmenter.method.training
    for size in ((320, 320), (96, 224)):
        expected = network(images(*size))
        got = segmenter.method.predict_features(images(*size))
        assert got.shape == expected.shape == (1, expected.shape[1], size[0] // 4, size[1] // 4)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_features_are_those_of_the_published_network(run: Path, network: PublishedNetwork) -> None:
    assert_same_features(run, network)


def test_features_are_those_of_the_published_network_with_bottlenecks(tmp_path: Path) -> None:
    network = random_network("resnet50", 24)
    run = import_checkpoint(write(tmp_path / "file", file_content(network, K)), tmp_path / "run")
    assert load(None, run / "config.toml").model.backbone == "resnet50"
    assert_same_features(run, network)


@torch.no_grad()
def test_clusters_are_the_largest_dot_products_with_the_first_classifier(run: Path, network: PublishedNetwork) -> None:
    content = file_content(network, K)
    weight = content["classifier1_state_dict"]["module.weight"][:, :, 0, 0]
    pixels = (images(320, 320) * 255).byte()
    z = F.normalize(network(pixels.float() / 255), dim=1)
    expected = torch.einsum("bdhw,kd->bkhw", z, weight)
    segmenter = Segmenter.load(run, "cpu")
    got = segmenter.logits(pixels.float() / 255)
    assert torch.allclose(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert len(expected.argmax(1).unique()) > 1
    top = expected.topk(2, dim=1).values
    settled = top[:, 0] - top[:, 1] > 1e-4
    assert settled.float().mean() > 0.99
    assert torch.equal(torch.from_numpy(segmenter.clusters(pixels, (80, 80)))[settled], expected.argmax(1)[settled])


def test_the_biases_of_the_classifier_are_used(tmp_path: Path) -> None:
    content = hollow_content()
    content["classifier1_state_dict"]["module.bias"] = torch.tensor([0.0, 0.0, 1.0])
    run = import_checkpoint(write(tmp_path / "file", content), tmp_path / "run")
    assert set(Segmenter.load(run, "cpu").predict(Image.new("RGB", (40, 30))).flat) == {2}


def test_the_run_records_where_it_came_from(run: Path) -> None:
    config = load(None, run / "config.toml")
    assert (config.method, config.model.backbone, config.model.dim, config.cluster.k) == ("picie", "resnet18", 16, K)
    assert (config.evaluate_size, config.views.size, config.model.pretrained, config.data.name) == (
        320,
        320,
        False,
        "cocostuff27",
    )
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["status"] == "imported"
    assert record["imported"]["file"] == "published.pth.tar"
    assert record["imported"]["epoch"] == 9
    assert len(record["imported"]["sha256"]) == 64
    args = {"arch": "resnet18", "in_dim": 16, "K_train": K, "lr": 1e-4, "seeds": [1, 2], "resume": None}
    assert record["imported"]["args"] == args
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.pt", "config.toml", "run.json"]


def test_an_imported_run_predicts_and_is_scored(cli: Call, run: Path, labelled_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "segments"
    status, _, err = cli("predict", run, labelled_folder / "images" / "val", "--out", out)
    assert (status, err) == (0, "")
    with Image.open(out / "100.png") as labels:
        assert labels.size == (64, 48)
    scored = (
        "--data",
        labelled_folder,
        "--dataset",
        "folder",
        "--json",
        tmp_path / "scores.json",
        "--baselines",
        "--name-clusters",
    )
    status, _, err = cli("evaluate", run, *scored)
    assert status == 0, err
    scores = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert scores["n_images"] == 2
    assert len(scores["baselines"]) == 3
    assert scores["protocol"].startswith("val; centre square of 320 px")
    assert Segmenter.load(run, "cpu").names[:3] == NAMES


def test_what_an_imported_run_does_not_know_is_said(refused: Refused, run: Path) -> None:
    assert "has no dataset of its own; give a labelled folder: --data FOLDER" in refused("evaluate", run)
    assert "was imported, not trained here" in refused("train", "--resume", run)
    assert "was imported, not trained here" in refused("train", "--resume", run, "train.epochs=20")


def test_older_and_other_forms_of_the_file_are_the_same_run(network: PublishedNetwork, run: Path, tmp_path: Path) -> None:
    bare = file_content(network, K, prefix="")
    bare["state_dict"] = {name: tensor for name, tensor in bare["state_dict"].items() if not name.startswith("backbone.fc.")}
    other = file_content(network, K)
    del other["args"], other["epoch"], other["optimizer"]
    other["state_dict"] = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in other["state_dict"].items()
        if not name.endswith("num_batches_tracked")
    }
    expected = checkpoint_of(run)
    for name, content in (("bare", bare), ("other", other)):
        file = write(tmp_path / name, content, old_format=name == "bare")
        got = checkpoint_of(import_checkpoint(file, tmp_path / f"{name} run"))
        assert got["config"] == expected["config"]
        assert got["method"].keys() == expected["method"].keys()
        assert all(torch.equal(tensor, got["method"][key]) for key, tensor in expected["method"].items())


def test_one_classifier_is_mdc_and_half_precision_is_made_single(tmp_path: Path) -> None:
    content = hollow_content()
    del content["classifier2_state_dict"]
    content["state_dict"] = {name: t.half() if t.is_floating_point() else t for name, t in content["state_dict"].items()}
    run = import_checkpoint(write(tmp_path / "file", content), tmp_path / "run")
    assert load(None, run / "config.toml").method == "mdc"
    assert Segmenter.load(run, "cpu").k == 3
    assert {tensor.dtype for tensor in checkpoint_of(run)["method"].values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_architecture_is_read_from_the_tensors(name: str) -> None:
    state = hollow_content(name)["state_dict"]
    network = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    assert _architecture(_Published(Path("file"), network, [], None, {})) == name


def test_args_that_differ_from_the_tensors_are_said(cli: Call, tmp_path: Path) -> None:
    file = write(tmp_path / "file", hollow_content(arch="resnet50", K_train=27, in_dim=8))
    status, out, err = cli("import-checkpoint", file, "--out", tmp_path / "run")
    assert (status, out) == (0, f"{tmp_path / 'run'}\n")
    assert "args say arch = 'resnet50', tensors resnet18; the tensors are used" in err
    assert "args say K_train = 27, tensors 3" in err
    assert "in_dim" not in err


# What must run nothing.


class _Reduced:
    def __init__(self, *reduction: Any) -> None:
        self.reduction = reduction

    def __reduce__(self) -> Any:
        return self.reduction


class _Subclass(argparse.Namespace):
    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["marker"]).touch()


def _attacks(marker: Path) -> dict[str, Any]:
    return {
        "system": _Reduced(os.system, (f"touch {marker}",)),
        "eval": _Reduced(eval, (f"open({str(marker)!r}, 'w')",)),
        "getattr": _Reduced(getattr, (_Reduced(Path, (str(marker),)), "touch")),
        "attribute of Namespace": _Reduced(getattr, (argparse.Namespace, "__init__")),
        "subclass": _Subclass(marker=str(marker)),
        "attribute that runs": argparse.Namespace(x=_Reduced(os.system, (f"touch {marker}",))),
        "Namespace called": _Reduced(argparse.Namespace, (1, 2)),
        "Namespace with items": _Reduced(argparse.Namespace, (), {"a": 1}, iter([1])),
        "Namespace with a setter": _Reduced(argparse.Namespace, (), {"__setstate__": argparse.Namespace, "x": print}),
    }


@pytest.mark.parametrize("where", ["args", "a tensor", "all"])
@pytest.mark.parametrize("attack", _attacks(Path("marker")))
def test_a_malicious_file_runs_nothing(attack: str, where: str, refused: Refused, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for old_format in (False, True):
        evil = _attacks(marker)[attack]
        content = hollow_content()
        if where == "all":
            content = evil
        elif where == "args":
            content["args"] = evil
        else:
            content["state_dict"]["module.backbone.conv1.weight"] = evil
        file = write(tmp_path / "file", content, old_format)
        assert "(nothing was run)" in refused("import-checkpoint", file, "--out", tmp_path / "run")
        assert not marker.exists()
        assert not (tmp_path / "run").exists()


def test_the_attacks_would_work_on_a_careless_reader(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name in ("system", "eval", "subclass"):
        pickle.loads(pickle.dumps(_attacks(marker)[name]))
        assert marker.exists()
        marker.unlink()


def test_namespaces_are_let_in_for_an_import_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "file", hollow_content())
    import_checkpoint(file, tmp_path / "run")
    with pytest.raises(InputError, match="more than tensors and plain values"):
        checkpoint.read_tensors(file)


def _endless() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2), {"a": 1}, [[1]], argparse.Namespace(), b"x", 10**30, torch.float32, _endless(), torch.Size([1]),
        torch.device("cpu"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_args_must_be_plain(value: Any, refused: Refused, tmp_path: Path) -> None:
    file = write(tmp_path / "file", hollow_content(arch="resnet18", odd=value))
    if type(value) is torch.Size:  # a tuple of numbers, which is plain
        assert import_checkpoint(file, tmp_path / "run")
        return
    message = refused("import-checkpoint", file, "--out", tmp_path / "run")
    assert "args: 'odd' is not a number, a string or a list of these" in message


# Files that are not published checkpoints, or are damaged.

CONV, LATERAL = "module.backbone.conv1.weight", "module.decoder.layer2.bias"


def _without(section: str, name: str | None = None) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(section) if name is None else content[section].pop(name)


def _with(section: str, name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[section].update({name: value})


def _each(section: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.update({section: values[section]})


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no network": (_without("state_dict"), "has no 'state_dict'"),
    "no classifier": (_without("classifier1_state_dict"), "has no 'classifier1_state_dict'"),
    "no weight": (_without("classifier2_state_dict", "module.weight"), "classifier2_state_dict has no 'weight'"),
    "no bias": (_without("classifier1_state_dict", "module.bias"), "classifier1_state_dict has no 'bias'"),
    "no convolution": (_without("state_dict", CONV), "lacks 'backbone.conv1.weight', which resnet18 needs"),
    "no lateral": (_without("state_dict", LATERAL), "lacks 'decoder.layer2.bias'"),
    "no block": (_without("state_dict", "module.backbone.layer3.1.conv1.weight"), r"lacks 'backbone\.layer3\.1\.conv1"),
    "other shape": (_with("state_dict", CONV, torch.zeros(3, 3)), r"conv1.weight. has shape \(3, 3\); .* \(64, 3, 7, 7\)"),
    "other D": (_with("state_dict", LATERAL, torch.zeros(9)), r"'decoder.layer2.bias' has shape \(9,\); .* D = 8, .* \(8,\)"),
    "not finite": (_with("state_dict", LATERAL, torch.full((8,), torch.nan)), "'module.decoder.layer2.bias' has values that"),
    "no tensor": (_with("state_dict", LATERAL, 1.0), "'module.decoder.layer2.bias' is not a named tensor"),
    "no name": (_with("state_dict", 3, torch.zeros(1)), "3 is not a named tensor"),  # type: ignore[arg-type]
    "sparse": (_with("state_dict", LATERAL, torch.zeros(8).to_sparse()), "is not a dense tensor"),
    "meta": (_with("state_dict", LATERAL, torch.zeros(8, device="meta")), "is not a dense tensor"),
    "repeated": (_with("state_dict", LATERAL, torch.zeros(1).expand(10**13)), "'module.decoder.layer2.bias' is not a dense"),
    "more": (_with("state_dict", "module.head.weight", torch.zeros(8)), "'head.weight' is not part of the published network"),
    "no ResNet": (lambda c: c.update(state_dict={"a": torch.zeros(1)}), r"\(0, 0, 0, 0\) blocks, which matches none of"),
    "empty": (lambda c: c.update(state_dict={}), r"\(0, 0, 0, 0\) blocks"),
    "a list": (lambda c: c.update(state_dict=[1]), "has no 'state_dict'"),
    "flat weights": (_with("classifier1_state_dict", "module.weight", torch.zeros(3, 8)), r"bias have shapes \(3, 8\) and"),
    "other K": (
        lambda c: c.update(classifier2_state_dict={"weight": torch.zeros(4, 8, 1, 1), "bias": torch.zeros(4)}),
        "classifier1_state_dict and classifier2_state_dict have different shapes",
    ),
    "one cluster": (
        lambda c: [c.update({f"classifier{i}_state_dict": {"weight": torch.zeros(1, 8, 1, 1), "bias": torch.zeros(1)}})
                   for i in (1, 2)],
        "cluster.k = 1: ",
    ),
    "odd epoch": (lambda c: c.update(epoch="nine"), "epoch is not a number of epochs"),
    "odd args": (lambda c: c.update(args=[1]), "args is not an argparse.Namespace"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_that_names_the_key(damage: str, refused: Refused, tmp_path: Path) -> None:
    content = hollow_content()
    spoil, message = DAMAGES[damage]
    spoil(content)
    file = write(tmp_path / "file", content)
    said = refused("import-checkpoint", file, "--out", tmp_path / "new" / "run")
    assert said.startswith(f"{file}: ")
    with pytest.raises(InputError, match=message):
        raise InputError(said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_published_checkpoint_is_refused(refused: Refused, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "no such file" in refused("import-checkpoint", tmp_path / "nothing", "--out", out)
    assert "no such file" in refused("import-checkpoint", tmp_path, "--out", out)
    assert "not a checkpoint of the published code" in refused("import-checkpoint", run / "checkpoint.pt", "--out", out)
    (tmp_path / "text").write_text("hello", "utf-8")
    assert "is not a PyTorch file" in refused("import-checkpoint", tmp_path / "text", "--out", out)
    file = write(tmp_path / "file", hollow_content())
    assert "--dataset: unknown name 'coco'" in refused("import-checkpoint", file, "--out", out, "--dataset", "coco")
    assert not out.exists()


def test_the_folder_must_be_new(refused: Refused, tmp_path: Path) -> None:
    file = write(tmp_path / "file", hollow_content())
    assert "exists already; give another folder" in refused("import-checkpoint", file, "--out", file)
    assert "exists already; give another folder" in refused("import-checkpoint", file, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    import_checkpoint(file, tmp_path / "empty")
    assert (tmp_path / "empty" / "checkpoint.pt").is_file()


@pytest.mark.parametrize("exists", [False, True])
def test_a_write_that_fails_leaves_nothing(exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = write(tmp_path / "file", hollow_content()), tmp_path / "new" / "run"
    if exists:
        out.mkdir(parents=True)

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="disk full"):
        import_checkpoint(file, out)
    assert out.exists() is exists
    assert (tmp_path / "new").exists() is exists
    assert not exists or not any(out.iterdir())
