"""Shared by all tests: a tiny labelled folder, a tiny configuration, and one run trained with it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from picie.cli.main import main
from picie.config import Config, load
from picie.inference.segmenter import Segmenter
from picie.training import api

SIZE = (64, 48)  # width, height
COLORS = ("#dc2828", "#28b43c", "#3c50dc")
NAMES = ("red", "green", "blue")
TINY = (
    "model.backbone=test_efficientnet",
    "model.pretrained=false",
    "model.dim=8",
    "views.size=32",
    "cluster.k=3",
    "cluster.batch_size=4",
    "cluster.smooth=0",  # pictures of 8 x 8 cells have hardly a surface; SMOOTHED is for tests of it
    "cluster.warm_start=false",
    "train.batch_size=2",
    "train.epochs=2",
    "train.lr=1e-4",
    "run.device=cpu",
    "evaluate.scale=1",
    "run.report=false",  # seconds; tests/report asks for it
)
SMOOTHED = ("cluster.smooth=0.125", "cluster.warm_start=true")  # the default
UNTRAINED = (*(option for option in TINY if not option.startswith("train.epochs=")), "train.epochs=0")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks of this size lose by a second thread, and other processes may be at work on the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An RGB picture (H, W, 3) of three noisy colours in bands and boxes, and its label map (H, W)."""
    rng = np.random.default_rng(seed)
    width, height = size
    label = np.zeros((height, width), dtype=np.uint8)
    label[rng.integers(height // 3, height // 2) :] = 1
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    label[top : top + height // 2, left : left + width // 3] = 2
    color = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS])[label]
    return (color + rng.integers(-30, 31, color.shape)).clip(0, 255).astype(np.uint8), label


def write_labelled(root: Path, n_train: int = 6, n_val: int = 2) -> Path:
    """Write a labelled folder of `picture`s; a border of two pixels is unlabelled."""
    for split, seeds in (("train", range(n_train)), ("val", range(100, 100 + n_val))):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for seed in seeds:
            image, label = picture(seed)
            label[:2] = label[-2:] = 255
            Image.fromarray(image).save(root / "images" / split / f"{seed:03d}.jpg", quality=95)
            Image.fromarray(label).save(root / "labels" / split / f"{seed:03d}.png")
    (root / "classes.toml").write_text(f"names = {json.dumps(NAMES)}\ncolors = {json.dumps(COLORS)}\nignore = 255\n", "utf-8")
    return root


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder of 6 + 2 pictures, 64 x 48, of 3 classes. Read it; to change it, take `own_folder`."""
    return write_labelled(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture
def own_folder(labelled_folder: Path, tmp_path: Path) -> Path:
    """A copy of `labelled_folder` that the test may change."""
    return Path(shutil.copytree(labelled_folder, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def tiny(labelled_folder: Path) -> Callable[..., Config]:
    """tiny("section.key=value", ..., preset=None): the tiny configuration on `labelled_folder`, changed."""

    def make(*overrides: str, preset: str | None = None) -> Config:
        return load(preset, None, [*TINY, f"data.root={json.dumps(str(labelled_folder))}", *overrides])

    return make


@pytest.fixture(scope="session")
def _trained(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.train(tiny(), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def trained(_trained: Path) -> Path:
    """The folder of a run trained for two epochs with `tiny()`. Read it; to change it, take `own_run`."""
    return _trained


@pytest.fixture(scope="session")
def untrained(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `tiny()` without a step, whose maps have several segments. Read it.

    A step would leave the tiny network with one cluster a picture.
    """
    return api.train(tiny("train.epochs=0"), tmp_path_factory.mktemp("runs") / "untrained")


@pytest.fixture
def own_run(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that the test may change."""
    return Path(shutil.copytree(trained, tmp_path / "own_run"))


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The package's log lines."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, handler = logging.getLogger("picie"), Collect()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """cli("train", ...): (exit status, stdout, stderr) of a command, in this process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def refused(cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """refused("train", ...): the message of a command that must end with status 2 and one line on stderr, nothing else."""

    def call(*arguments: object) -> str:
        status, out, err = cli(*arguments)
        assert status == 2, f"status {status}: {err}"
        assert err.startswith("picie: error: "), err
        assert err.count("\n") == 1, err
        assert err.endswith("\n"), err
        assert out == ""
        return err.removeprefix("picie: error: ").rstrip("\n")

    return call


def checkpoint_of(run: Path) -> dict[str, Any]:
    """The checkpoint of a run, as plain torch sees it."""
    state: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    return state


def predicted_clusters(segmenter: Segmenter, image: Image.Image) -> np.ndarray:
    """(H, W) clusters of an RGB picture, computed at `Config.predict_size`."""
    return segmenter.clusters(segmenter.to_pixels(image), (image.height, image.width))[0]
