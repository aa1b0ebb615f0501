"""One file without picie that gives what picie gives."""

from __future__ import annotations

import functools
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tests.conftest import COLORS, NAMES, picture
from torch import Tensor
from torch.nn import functional as F

from picie import Config, Segmenter
from picie.config import load
from picie.data.base import ClassMap
from picie.errors import InputError
from picie.inference.export import METADATA, _Labeller, export
from picie.models.backbones import Backbone
from picie.models.catalogue import KNOWN, SHIPPED
from picie.runtime import checkpoint
from picie.training import api

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def run(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluated, of a network that did not train; it would run in bf16, which is not to be exported."""
    config = tiny("train.epochs=0", "views.size=64", "train.precision=bf16")
    return api.train(config, tmp_path_factory.mktemp("exported") / "run")


@pytest.fixture(scope="module")
def segmenter(run: Path) -> Segmenter:
    return in_fp32(run)


@pytest.fixture(scope="module", params=[".pt2", ".onnx"])
def exported(request: pytest.FixtureRequest, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("files") / f"segmenter{request.param}")


def in_fp32(run: Path) -> Segmenter:
    state = checkpoint.load(run)
    state["config"]["train"]["precision"] = "fp32"
    return Segmenter.from_state(state, "cpu")


@functools.cache
def opened(file: Path) -> Callable[[Tensor], Sequence[Any]]:
    """What an exported file computes, without picie."""
    if file.suffix == ".pt2":
        program: Callable[[Tensor], Sequence[Any]] = torch.export.load(file).module()
        return program
    session = onnxruntime.InferenceSession(file)
    return lambda images: [torch.from_numpy(x) for x in session.run(["labels", "logits"], {"images": images.numpy()})]


def run_file(file: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and logits that an exported file gives."""
    labels, logits = opened(file)(images)
    return labels, logits


def metadata_of(file: Path) -> dict[str, Any]:
    if file.suffix == ".pt2":
        extra = {METADATA: ""}
        torch.export.load(file, extra_files=extra)
        found: dict[str, Any] = json.loads(extra[METADATA])
        return found
    session = onnxruntime.InferenceSession(file)
    return {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}


def pictures(*sizes: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) uint8 of pictures of one (width, height)."""
    arrays = [picture(seed, size)[0].transpose(2, 0, 1) for seed, size in enumerate(sizes)]
    return torch.from_numpy(np.stack(arrays))


def assert_same(file: Path, segmenter: Segmenter, images: Tensor) -> None:
    """The file's labels are picie's, but for pixels where two clusters are equally near to within rounding."""
    labels, logits = run_file(file, images)
    size = (images.shape[2], images.shape[3])
    clusters = segmenter.clusters(images, size)
    expected = torch.from_numpy(segmenter.value_of_cluster[clusters])
    with torch.no_grad():
        own = segmenter.logits(images.float() / 255)
    assert torch.allclose(logits, own, atol=1e-5)
    top = F.interpolate(own, size, mode="bilinear", align_corners=False).topk(2, dim=1).values
    settled = top[:, 0] - top[:, 1] > 1e-4
    assert settled.float().mean() > 0.95
    assert labels.dtype == torch.uint8
    assert torch.equal(labels[settled].long(), expected[settled])


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (96, 256)])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_number_of_images_of_any_size(exported: Path, segmenter: Segmenter, size: tuple[int, int], batch: int) -> None:
    images = pictures(*[size] * batch)
    assert len(np.unique(segmenter.clusters(images, size[::-1]))) > 1
    assert_same(exported, segmenter, images)


def test_labels_are_those_that_predict_writes(exported: Path, segmenter: Segmenter) -> None:
    array, _ = picture(7, (96, 64))  # its short side is the run's, so that neither side enlarges
    labels, _ = run_file(exported, torch.from_numpy(array.transpose(2, 0, 1)[None].copy()))
    expected = segmenter.predict(Image.fromarray(array))
    assert labels[0].numpy().dtype == expected.dtype
    assert (labels[0].numpy() == expected).mean() > 0.99


def test_names_and_colours_go_with_it(exported: Path) -> None:
    found = metadata_of(exported)
    assert (found["names"], found["colors"]) == (list(NAMES), list(COLORS))
    assert (found["short_side"], found["multiple_of"], found["size"]) == (64, 32, None)


def test_the_command_fixes_the_size(
    cli: Callable[..., tuple[int, str, str]], run: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    file = tmp_path / "segmenter.pt2"
    status, stdout, stderr = cli("export", run, file, "--size", 32, 96)
    assert (status, stdout) == (0, f"{file}\n")
    assert stderr.splitlines()[:2] == ["tracing test_efficientnet (10 to 60 s)", f"writing {file}"]
    assert "the file computes in fp32" in stderr  # the run predicts in bf16
    assert metadata_of(file)["size"] == [32, 96]
    assert_same(file, segmenter, pictures((96, 32), (96, 32), (96, 32)))
    with pytest.raises(AssertionError, match="96"):  # torch's own
        run_file(file, pictures((128, 32)))


def test_many_values_are_wider(run: Path) -> None:
    segmenter = in_fp32(run)
    many = ClassMap(tuple(f"class {i}" for i in range(300)), ("#000000",) * 300, ignore=-1)
    segmenter.name_clusters(many, np.array([299, 0, 257]))
    labels, _ = _Labeller(segmenter)(pictures((64, 64)))
    assert labels.dtype == torch.int32
    assert np.array_equal(labels[0], segmenter.predict(picture(0, (64, 64))[0]))


def test_what_cannot_be_exported_is_refused(
    refused: Refused, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.pt2"
    assert "no such run" in refused("export", tmp_path / "nothing", file)
    assert "give a file that ends in .pt2 or .onnx" in refused("export", run, tmp_path / "file.pt")
    assert "no such folder; make it first" in refused("export", run, tmp_path / "no" / "file.pt2")
    assert "give multiples of 32" in refused("export", run, file, "--size", 64, 100)
    assert "give multiples of 32" in refused("export", run, file, "--size", 0, 64)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    assert "needs onnxscript; pip install 'picie[export]'" in refused("export", run, tmp_path / "file.onnx")
    assert list(tmp_path.iterdir()) == []
    file.write_bytes(b"mine")
    assert "exists already; give another name" in refused("export", run, file)
    assert file.read_bytes() == b"mine"


class Untraceable(Backbone):
    """Its way depends on what is in the image."""

    channels, strides, mean, std = (3,), (4,), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self, name: str, pretrained: bool, weights: str | None) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> list[Tensor]:
        small = F.avg_pool2d(images, 4)
        return [small if float(images.sum()) > 0 else -small]


def test_a_network_that_cannot_be_traced_is_one_line(
    tiny: Callable[..., Config], cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run = api.train(tiny("train.epochs=0", f"model.backbone={__name__}:Untraceable"), tmp_path / "run")
    status, _, stderr = cli("export", run, tmp_path / "file.pt2", "--trust")
    assert status == 2
    assert "picie: error: " in stderr.splitlines()[-1]
    assert "Untraceable cannot be exported (" in stderr.splitlines()[-1]
    with pytest.raises(InputError, match=r"cannot be exported \(.*\)$"):
        export(run, tmp_path / "file.pt2", (64, 64))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


class SquareOnly(Untraceable):
    """It takes images of one size."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(images, 4) + torch.zeros(int(images.shape[2]) // 4, int(images.shape[3]) // 4)]


def test_a_network_of_one_size_is_exported_with_that_size(
    tiny: Callable[..., Config], cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run, file = api.train(tiny("train.epochs=0", f"model.backbone={__name__}:SquareOnly"), tmp_path / "run"), tmp_path / "x.pt2"
    status, _, stderr = cli("export", run, file, "--trust")
    assert status == 0, stderr
    assert "the input size is fixed: 32 x 32" in stderr
    assert metadata_of(file)["size"] == [32, 32]
    assert_same(file, in_fp32(run), pictures((32, 32)))


LIMIT = 60  # seconds of CPU that an export may take


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_the_default_backbone_is_exported_within_a_minute_of_cpu(tmp_path: Path, labelled_folder: Path, suffix: str) -> None:
    """The real backbone at the default size, with free input sizes, against what the run itself predicts."""
    run, file = tmp_path / "run", tmp_path / f"net{suffix}"
    api.train(load(None, None, [f"data.root={labelled_folder}", "train.epochs=0", "run.report=false", "cluster.k=3"]), run)
    began = time.process_time()
    export(run, file)
    assert time.process_time() - began < LIMIT
    segmenter = Segmenter.load(run, "cpu")  # in the precision of this machine
    for size in ((160, 160), (224, 160)):
        images = pictures(size)
        labels, _ = run_file(file, images)
        expected = segmenter.value_of_cluster[segmenter.clusters(images, (size[1], size[0]))]
        assert (labels.numpy() == expected).mean() > 0.95
    assert metadata_of(file)["size"] is None


SMALL = [name for name, known in KNOWN.items() if name != SHIPPED and known.millions < 30]
VITS = ["dinov2-s", "dinov2-s-reg", "dinov3-s", "pe-spatial-t"]


@pytest.mark.long
@pytest.mark.parametrize(("backbone", "suffix"), [*((name, ".pt2") for name in SMALL), *((name, ".onnx") for name in VITS)])
def test_every_listed_backbone_of_up_to_30_million_parameters_can_be_exported(
    tmp_path: Path, labelled_folder: Path, backbone: str, suffix: str
) -> None:
    run, file = tmp_path / "run", tmp_path / f"net{suffix}"
    options = ["train.epochs=0", "run.report=false", "cluster.k=3", "model.pretrained=false", "train.precision=fp32"]
    api.train(load(None, None, [f"data.root={labelled_folder}", f"model.backbone={backbone}", *options]), run)
    export(run, file)
    metadata = metadata_of(file)
    side = 10 * metadata["multiple_of"] if metadata["size"] is None else metadata["size"][0]
    assert_same(file, in_fp32(run), pictures((side, side)))
