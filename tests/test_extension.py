"""Everything plugs in from outside: one toy of each kind, defined here, trains through the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import picture
from torch import Tensor, nn
from torch.nn import functional as F

from picie import Segmenter
from picie.data.base import ClassMap
from picie.methods.base import Method
from picie.runtime.rng import ImageRNG
from picie.runtime.run_record import read_metrics
from picie.views.base import Geometric, Params, Photometric
from picie.views.geometry import Geometry
from picie.views.two_views import BatchViews

CALLS: set[str] = set()


class ToyDataset:
    """Six pictures that exist nowhere."""

    classes: ClassMap | None = ClassMap(("red", "green", "blue"), ("#ff0000", "#00ff00", "#0000ff"))

    def __init__(self, split: str = "train") -> None:
        CALLS.add("dataset")
        self.first = {"train": 0, "val": 50}[split]

    def __len__(self) -> int:
        return 6

    def name(self, index: int) -> str:
        return f"toy {index}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(picture(self.first + index)[0])

    def label(self, index: int) -> np.ndarray:
        return picture(self.first + index)[1]


class ToyBackbone(nn.Module):
    """Two levels, of stride 4 and 8."""

    channels, strides = (6, 12), (4, 8)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, name: str, pretrained: bool = True, weights: str | None = None) -> None:
        super().__init__()
        CALLS.add("backbone")
        self.first, self.second = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 12, 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.first(images).tanh()
        return [fine, self.second(fine).tanh()]


class Invert(Photometric):
    """Colours inverted with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def draw(self, draws: ImageRNG) -> Params:
        CALLS.add("photometric")
        return {"on": torch.from_numpy(draws.uniform() < self.p)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return torch.where(params["on"].to(images.device)[:, None, None, None], 1 - images, images)


class LeftHalf(Geometric):
    """The left half of the frame."""

    def draw(self, draws: ImageRNG) -> Geometry:
        CALLS.add("geometric")
        whole = Geometry.identity(len(draws))
        return Geometry(whole.box * torch.tensor([1, 1, 1, 0.5], dtype=torch.float64), whole.transpose)


class ToyMethod(Method):
    """One view, cross-entropy with the centroids, and a scale that is trained beside the network."""

    views = 1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        CALLS.add("method")
        self.scale = nn.Parameter(torch.ones(()))
        self._optimizer = torch.optim.SGD([self.scale], lr=0.1)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._optimizer]

    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        logits = torch.einsum("bdhw,kd->bkhw", self.features(batch, 0), self.centroids[0]) * self.scale
        yield {"loss": F.cross_entropy(logits, labels[0])}


def test_one_toy_of_each_trains_through_the_command_line(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, labelled_folder: Path
) -> None:
    here, run = __name__, tmp_path / "run"
    assert sys.modules[here].ToyMethod is ToyMethod
    CALLS.clear()
    options = (
        f"model.backbone={here}:ToyBackbone",
        f'views.invariance=["brightness", {{name="{here}:Invert", p=1.0}}]',
        f'views.equivariance=["{here}:LeftHalf", "hflip"]',
        f"method={here}:ToyMethod",
        "model.dim=8",
        "views.size=32",
        "cluster.k=3",
        "train.epochs=1",
        "run.device=cpu",
    )
    status, _, stderr = cli("train", f"{here}:ToyDataset", "--out", run, *options)
    assert status == 0, stderr
    assert {"dataset", "backbone", "photometric", "geometric", "method"} == CALLS
    (line,) = read_metrics(run)
    assert 0 < line["loss"] < 10
    assert line["miou"] > 0
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["method"]["scale"] != 1
    assert len(state["optimizers"]) == 2

    assert cli("train", "--resume", run, "train.epochs=2")[0] == 0
    assert len(read_metrics(run)) == 2
    scores = tmp_path / "scores.json"
    assert cli("evaluate", run, "--json", scores, "--baselines")[0] == 0
    assert json.loads(scores.read_text("utf-8"))["n_images"] == 6
    assert cli("predict", run, labelled_folder / "images" / "val", "--out", tmp_path / "out")[0] == 0
    assert Segmenter.load(run).names == ("red", "green", "blue")


def test_the_family_of_a_transform_is_checked(refused: Callable[..., str], labelled_folder: Path) -> None:
    here = __name__
    assert "is not a Photometric transform" in refused("train", labelled_folder, f"views.invariance={here}:LeftHalf")
    assert "is not a Geometric transform" in refused("train", labelled_folder, f"views.equivariance={here}:Invert")
    assert "has no parameter 'q'; valid: p" in refused(
        "train", labelled_folder, f'views.invariance=[{{name="{here}:Invert", q=1.0}}]'
    )


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("data.name={}:ToyDatset", "did you mean 'ToyDataset'"),
        ("method={}:ToyMethd", "did you mean 'ToyMethod'"),
        ("model.backbone={}:ToyBackbon", "did you mean 'ToyBackbone'"),
        ("method=not_there:Thing", "cannot import 'not_there'"),
    ],
)
def test_a_misspelt_toy_is_named(
    refused: Callable[..., str], tmp_path: Path, labelled_folder: Path, option: str, part: str
) -> None:
    root = [] if option.startswith("data.name") else [labelled_folder]
    assert part in refused("train", *root, option.format(__name__), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
