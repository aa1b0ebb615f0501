"""What plugs in from outside the package, without an edit in it; docs/extending.md explains this file.

Each extension is used through the command line: it trains, resumes bit-equal, predicts and exports, and
its effect shows in the scores, the losses or the label maps.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field
from tests.conftest import TINY, checkpoint_of, picture
from tests.equal_runs import assert_equal_runs
from torch import Tensor, nn
from torch.nn import functional as F

from picie import Config, Segmenter, registry
from picie.config import Section
from picie.data.base import ClassMap
from picie.methods.base import Method
from picie.methods.losses import Targets, prototype_logits
from picie.methods.picie import PiCIE
from picie.runtime.rng import ImageRNG
from picie.runtime.run_record import read_metrics
from picie.training import api
from picie.views.base import Geometric, Params, Photometric
from picie.views.geometry import Geometry
from picie.views.two_views import BatchViews

HERE = __name__
Cli = Callable[..., tuple[int, str, str]]


# A dataset: any class with these four methods and `classes`.


class ToyDataset:
    """Six pictures that exist nowhere."""

    classes: ClassMap | None = ClassMap(("red", "green", "blue"), ("#ff0000", "#00ff00", "#0000ff"))

    def __init__(self, split: str = "train") -> None:
        self.first = {"train": 0, "val": 50}[split]

    def __len__(self) -> int:
        return 6

    def name(self, index: int) -> str:
        return f"toy {index}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(picture(self.first + index)[0])

    def label(self, index: int) -> np.ndarray:
        return picture(self.first + index)[1]


# Transforms: one that changes colours, one that moves pixels.


class Invert(Photometric):
    """Colours inverted with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def draw(self, draws: ImageRNG) -> Params:
        return {"on": torch.from_numpy(draws.uniform() < self.p)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return torch.where(params["on"].to(images.device)[:, None, None, None], 1 - images, images)


class LeftHalf(Geometric):
    """The left half of the frame."""

    def draw(self, draws: ImageRNG) -> Geometry:
        whole = Geometry.identity(len(draws))
        return Geometry(whole.box * torch.tensor([1, 1, 1, 0.5], dtype=torch.float64), whole.transpose)


# A backbone with a layout of its own (two levels, of stride 4 and 8) and options.


class ToyBackbone(nn.Module):
    """Two convolutions; `width` is the number of channels of the first."""

    strides = (4, 8)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, name: str, pretrained: bool, weights: str | None, width: int = 6) -> None:
        super().__init__()
        self.channels = (width, 2 * width)
        self.first, self.second = nn.Conv2d(3, width, 4, 4), nn.Conv2d(width, 2 * width, 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.first(images).tanh()
        return [fine, self.second(fine).tanh()]


# A loss: called with features and targets, it returns one loss for each view's clustering.


class FocalLoss:
    """Cross-entropy that counts well-classified cells less."""

    def __init__(self, config: Any, gamma: float = 2.0) -> None:
        self.temperature, self.gamma = config.temperature, gamma

    def __call__(self, features: Tensor, targets: Targets) -> Tensor:
        z = F.normalize(features.float(), dim=1)
        losses = []
        for centroids, bias, labels in zip(targets.centroids, targets.bias, targets.labels, strict=True):
            logits = prototype_logits(z, centroids, bias) / self.temperature
            entropy = F.cross_entropy(logits, labels, reduction="none")
            losses.append((entropy * (1 - torch.exp(-entropy)) ** self.gamma).mean())
        return torch.stack(losses)


# A method with a momentum teacher: an average of the network makes the pseudo-labels and predicts.


class TeacherOptions(Section):
    """The section [teacher] of the configuration."""

    momentum: Annotated[float, Field(ge=0, le=1)] = Field(0.99, description="share of the teacher that stays in each step")


class Teacher(PiCIE):
    """PiCIE with labels by an exponential moving average of the network."""

    Options = TeacherOptions

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.average = copy.deepcopy(self.network).requires_grad_(False)

    def initialize(self, batches: Any) -> None:
        super().initialize(batches)
        self.average.load_state_dict(self.network.state_dict())

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        return (self.network if self.training else self.average).levels(images)

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        z: Tensor = (self.network if self.training else self.average).decode(levels)
        return z

    @torch.no_grad()
    def after_step(self) -> None:
        for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - self.options.momentum)


# A method with a projection head: features of another dimension than the network's.


class Projected(PiCIE):
    """PiCIE on features of 5 channels, from a linear layer that is trained along."""

    def __init__(self, config: Any, network: Any) -> None:
        super().__init__(config, network, dim=5)
        self.head = nn.Conv2d(network.dim, 5, 1)

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        return self.head(super().decode(levels).float())


# Methods that change what the base class does in other places.


class Adapted(PiCIE):
    """A layer after each level is trained: the levels change, even those of a frozen backbone."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.adapters = nn.ModuleList(nn.Conv2d(c, c, 1) for c in self.network.backbone.channels)

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        return [adapt(level.float()) for adapt, level in zip(self.adapters, super().levels(images), strict=True)]


class Swapped(PiCIE):
    """PiCIE on images whose red and blue are swapped: distances change, so scores must follow everywhere."""

    def predict_features(self, images: Tensor) -> Tensor:
        return super().decode(super().levels(images.flip(1) ** 2))


class Coloured(PiCIE):
    """Features with the picture's mean colours appended: its levels hold the pictures, too."""

    def __init__(self, config: Any, network: Any) -> None:
        super().__init__(config, network, dim=network.dim + 3)

    def predict_features(self, images: Tensor) -> Tensor:
        z = super().decode(super().levels(images)).float()
        return torch.cat([z, 20 * F.adaptive_avg_pool2d(images.float(), z.shape[2:])], dim=1)


class LooksAtPictures(PiCIE):
    """Its loss reads `batch.pictures`, which may be cached, or not, as `run.keep_gb` has it."""

    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        brightness = [batch.pictures(view).float().mean() for view in range(self.views)]
        for term, mean in zip(super().losses(batch, labels), brightness, strict=True):
            yield term | {"loss": term["loss"] * mean}


class Frozen(Method):
    """One view, nothing of the network trained: a scale alone, by an optimiser of its own."""

    views = 1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.network.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))
        self._optimizer = torch.optim.SGD([self.scale], lr=0.1)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._optimizer]

    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        yield {"loss": F.cross_entropy(prototype_logits(self.features(batch, 0), self.centroids[0]) * self.scale, labels[0])}


class Untrained(Frozen):
    """Nothing at all is trained."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.requires_grad_(False)
        self._optimizer = torch.optim.SGD([nn.Parameter(torch.ones(()))], lr=0.1)


class SlowBackbone(PiCIE):
    """A learning rate of its own for the backbone."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        network = self.network
        return [{"params": list(network.fpn.parameters())}, {"params": list(network.backbone.parameters()), "lr": 0.0}]


EXTENSIONS = {
    "loss": (f"loss.name={HERE}:FocalLoss", "loss.options={gamma = 1.0}"),
    "momentum teacher": (f"method={HERE}:Teacher", "teacher.momentum=0.5"),
    "backbone": (f"model.backbone={HERE}:ToyBackbone", "model.backbone_options={width = 4}"),
    "dataset": (f"data.name={HERE}:ToyDataset",),
    "transforms": (
        f'views.invariance=["brightness", {{name="{HERE}:Invert", p=1.0}}]',
        f'views.equivariance=["{HERE}:LeftHalf", "hflip"]',
    ),
    "projection head": (f"method={HERE}:Projected",),
}
OTHERS = {
    "frozen momentum teacher": (f"method={HERE}:Teacher", "teacher.momentum=0.5", "model.freeze=true"),
    "frozen backbone with adapters": (f"method={HERE}:Adapted", "model.freeze=true"),
    "features of a picture": (f"method={HERE}:Coloured",),
    "loss of pictures": (f"method={HERE}:LooksAtPictures",),
    "frozen": (f"method={HERE}:Frozen",),
    "untrained": (f"method={HERE}:Untrained",),
    "learning rates": (f"method={HERE}:SlowBackbone",),
}


CONSTANT = "train.schedule=constant"


@pytest.fixture(autouse=True)
def _trusted() -> Iterator[None]:
    """Python code here may open the runs of these extensions."""
    with registry.trust_scope():
        registry.trust_all()
        yield


def train(cli: Cli, data: Path, out: Path, *options: str) -> Path:
    """A run of these options on `data`; `TINY` says the rest."""
    named = {option.partition("=")[0] for option in options}
    root = () if "data.name" in named else (data,)
    status, _, error = cli("train", *root, "--out", out, *(o for o in TINY if o.partition("=")[0] not in named), *options)
    assert status == 0, error
    return out


@pytest.fixture(scope="module")
def without_extension(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at a constant learning rate, so that one of fewer epochs can be continued to it."""
    return api.train(tiny(CONSTANT), tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("name", [*EXTENSIONS, *OTHERS])
def test_an_extension_trains_resumes_predicts_and_shows(
    cli: Cli, labelled_folder: Path, without_extension: Path, tmp_path: Path, name: str
) -> None:
    options = (*(EXTENSIONS | OTHERS)[name], CONSTANT)
    whole = train(cli, labelled_folder, tmp_path / "whole", *options)
    half = train(cli, labelled_folder, tmp_path / "half", *options, "train.epochs=1")
    status, _, error = cli("train", "--resume", half, "train.epochs=2", "--trust")
    assert status == 0, error
    assert_equal_runs(half, whole)

    status, _, error = cli("predict", whole, labelled_folder / "images" / "val", "--out", tmp_path / "out", "--trust")
    assert status == 0, error
    assert (tmp_path / "out" / "predictions.json").is_file()
    scores = tmp_path / "scores.json"
    status, _, error = cli("evaluate", whole, "--json", scores, "--trust")
    assert status == 0, error
    assert json.loads(scores.read_text("utf-8"))["miou"] > 0
    assert read_metrics(whole)[-1]["loss"] != read_metrics(without_extension)[-1]["loss"]  # its effect


IN_SHORT = ("projection head",)  # their exports take seconds; `make test-long` has all


@pytest.mark.parametrize("name", [n if n in IN_SHORT else pytest.param(n, marks=pytest.mark.long) for n in EXTENSIONS])
def test_an_extension_is_exported(cli: Cli, labelled_folder: Path, tmp_path: Path, name: str) -> None:
    run = train(cli, labelled_folder, tmp_path / "run", *EXTENSIONS[name], "train.epochs=0")
    status, _, error = cli("export", run, tmp_path / "net.pt2", "--trust")
    assert status == 0, error
    program = torch.export.load(tmp_path / "net.pt2").module()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    segmenter = Segmenter.load(run, "cpu")
    expected = segmenter.value_of_cluster[segmenter.clusters(pixels, (64, 64))]
    assert (np.asarray(program(pixels)[0]) == expected).mean() > 0.97  # the run may compute in bfloat16, the file in float32


@pytest.mark.parametrize("refit", [0, 8])
def test_predicted_features_are_the_methods_everywhere(cli: Cli, labelled_folder: Path, tmp_path: Path, refit: int) -> None:
    """Clusters, refit, scores and predictions see what `predict_features` makes: the scores while training are those after."""
    run = train(cli, labelled_folder, tmp_path / "run", f"method={HERE}:Swapped", f"cluster.refit={refit}")
    assert cli("evaluate", run, "--json", tmp_path / "scores.json", "--trust")[0] == 0
    scores = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    line = read_metrics(run)[-1]
    assert (scores["accuracy"], scores["miou"]) == (line["accuracy"], line["miou"])
    segmenter = Segmenter.load(run, "cpu")
    pixels = torch.from_numpy(picture(3)[0]).permute(2, 0, 1)[None]
    with torch.no_grad():
        raw = segmenter.method.network((pixels.flip(1).float() / 255) ** 2)
    torch.testing.assert_close(segmenter.encode(pixels), F.normalize(raw, dim=1), atol=0.02, rtol=0)


@pytest.mark.parametrize("method", ["LooksAtPictures", "Coloured", "Adapted"])
def test_what_is_cached_changes_no_result_of_any_method(cli: Cli, labelled_folder: Path, tmp_path: Path, method: str) -> None:
    runs = [
        train(cli, labelled_folder, tmp_path / keep, f"method={HERE}:{method}", f"run.keep_gb={keep}", "run.cache_gb=0")
        for keep in ("0", "1")
    ]
    assert_equal_runs(*runs)
    frozen = [  # its levels are cached if they are the backbone's, and then its pictures are not
        train(
            cli,
            labelled_folder,
            tmp_path / f"frozen{keep}",
            f"method={HERE}:{method}",
            f"run.keep_gb={keep}",
            "model.freeze=true",
        )
        for keep in ("0", "1")
    ]
    assert_equal_runs(*frozen)


def test_what_is_trained_after_a_frozen_backbone_is_trained(cli: Cli, labelled_folder: Path, tmp_path: Path) -> None:
    options = (f"method={HERE}:Adapted", "model.freeze=true")
    states = [
        checkpoint_of(train(cli, labelled_folder, tmp_path / epochs, *options, f"train.epochs={epochs}"))["method"]
        for epochs in ("0", "1")
    ]
    for name in states[0]:
        changed = not torch.equal(states[0][name], states[1][name])
        if name.startswith(("adapters.", "network.")):
            assert changed == (not name.startswith("network.backbone.")), name


def test_a_teacher_of_momentum_1_never_changes_and_of_0_is_the_network(cli: Cli, labelled_folder: Path, tmp_path: Path) -> None:
    for momentum in (0, 1):
        run = train(cli, labelled_folder, tmp_path / f"{momentum}", f"method={HERE}:Teacher", f"teacher.momentum={momentum}")
        state = checkpoint_of(run)["method"]
        names = [n.removeprefix("average.") for n in state if n.startswith("average.") and n.endswith("weight")]
        same = [torch.equal(state[f"average.{n}"], state[f"network.{n}"]) for n in names]
        assert all(same) if momentum == 0 else not any(same)


def test_the_backbone_keeps_its_weights_at_a_learning_rate_of_0(cli: Cli, labelled_folder: Path, tmp_path: Path) -> None:
    runs = [train(cli, labelled_folder, tmp_path / str(n), f"method={HERE}:SlowBackbone", f"train.epochs={n}") for n in (0, 2)]
    before, after = (checkpoint_of(run)["method"] for run in runs)
    weights = [name for name in before if name.endswith("weight") and before[name].dim() == 4]
    changed = {name.split(".")[1] for name in weights if not torch.equal(before[name], after[name])}
    assert changed == {"fpn"}


def test_one_of_each_at_once(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [option for name in EXTENSIONS if name != "projection head" for option in EXTENSIONS[name]]
    train(cli, tmp_path, run, *options)
    assert cli("evaluate", run, "--baselines", "--trust")[0] == 0
    assert cli("report", run, "--trust")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((f"method={HERE}:Teacher", "teacher.momentun=0.5"), "did you mean 'teacher.momentum'"),
        ((f"method={HERE}:Teacher", "teacher.momentum=2"), "teacher.momentum = 2: must be less than or equal to 1"),
        (("teacher.momentum=0.5",), "unknown key 'teacher'"),
        (("mdc.lr=0.5",), "it holds options of method=mdc alone"),
        (
            (f"loss.name={HERE}:FocalLoss", "loss.options={gama = 1}"),
            "loss.options: FocalLoss: got an unexpected keyword argument",
        ),
        ((f"model.backbone={HERE}:ToyBackbone", "model.backbone_options={wdth = 4}"), "model.backbone_options: ToyBackbone"),
        (("loss.name=focal",), "loss.name: unknown name 'focal'"),
        ((f"method={HERE}:ToyMethd",), "has no 'ToyMethd'"),
        ((f"model.backbone={HERE}:ToyBackbon",), "did you mean 'ToyBackbone'"),
        (("method=not_there:Thing",), "cannot import 'not_there'"),
        ((f"views.invariance={HERE}:LeftHalf",), "is not a Photometric transform"),
        ((f"views.equivariance={HERE}:Invert",), "is not a Geometric transform"),
        ((f'views.invariance=[{{name="{HERE}:Invert", q=1.0}}]',), "has no parameter 'q'; valid: p"),
    ],
)
def test_a_mistake_is_named(
    refused: Callable[..., str], tmp_path: Path, labelled_folder: Path, options: tuple[str, ...], message: str
) -> None:
    named = {option.partition("=")[0] for option in options}
    rest = (option for option in TINY if option.partition("=")[0] not in named)
    assert message in refused("train", labelled_folder, *rest, *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_of_another_dimension_than_told_are_refused(
    refused: Callable[..., str], tmp_path: Path, labelled_folder: Path
) -> None:
    message = refused("train", labelled_folder, *TINY, f"method={HERE}:WrongDim", "--out", tmp_path / "run")
    assert "its features have 5 channels and its dim is 8" in message


class WrongDim(Projected):
    """Says nothing of its dimension."""

    def __init__(self, config: Any, network: Any) -> None:
        PiCIE.__init__(self, config, network)
        self.head = nn.Conv2d(network.dim, 5, 1)
