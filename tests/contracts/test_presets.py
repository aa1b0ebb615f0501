"""Every preset trains on data of its own dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny_datasets import MAKERS

from picie.config import load, preset_names, preset_text
from picie.runtime.run_record import read_metrics

RECIPES = (Path(__file__).parents[2] / "docs" / "research" / "published-recipes.md").read_text("utf-8")
SMALL = (
    "model.backbone=test_efficientnet",
    "model.pretrained=false",
    "model.dim=8",
    "views.size=32",
    "views.crop=48",
    "evaluate.size=32",
    "cluster.k=3",
    "cluster.batch_size=2",
    "train.batch_size=4",
    "train.epochs=1",
    "run.device=cpu",
)


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_trains_a_step_on_its_own_dataset(
    preset: str, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    config = load(preset)
    root, run = MAKERS[config.data.name](tmp_path / "data"), tmp_path / "run"
    assert root is not None
    status, _, err = cli("train", root, "--preset", preset, "--out", run, *SMALL)
    assert status == 0, err
    (line,) = read_metrics(run)
    assert 0 < line["loss"] < 10
    assert line["protocol"].startswith(f"{config.evaluate.split}; centre square of 32 px")


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_says_how_where_how_long_and_how_good(preset: str) -> None:
    for key in ("command", "hardware", "time", "score", "source"):
        assert f"\n# {key} " in preset_text(preset)
    if load(preset).data.name.startswith(("cocostuff", "cityscapes")):
        assert "published; not run here" in preset_text(preset)


@pytest.mark.parametrize("preset", [name for name in preset_names() if name.startswith(("cocostuff", "cityscapes"))])
def test_a_published_recipe_has_the_published_settings(preset: str) -> None:
    config, reference = load(preset), load("reference")
    assert config.data.name == preset.partition("-")[0]
    assert config.method == preset.partition("-")[2]
    assert (config.model.backbone, config.views.size, config.views.frame, config.evaluate_size) == (
        "resnet18.tv_in1k",
        320,
        640,
        320,
    )
    assert config.predict_size == 320
    assert (config.cluster.k, config.cluster.batch_size) == (27, 256)
    longer = preset == "cityscapes27-mdc"  # its log has 30 initial batches and 30 iterations
    assert (config.cluster.init_batches, config.cluster.lloyd_steps) == ((30, 30) if longer else (20, 20))
    assert (config.cluster.refit, config.cluster.reseed) == (1, True)
    assert (config.train.epochs, config.train.batch_size) == (10, 128)
    assert config.train.lr == (1e-4 if preset.startswith("coco") else 1e-3)
    if config.method == "mdc":
        assert config.model_dump()["mdc"]["lr"] == config.train.lr
    assert config.data.train_split == ("train" if preset.startswith("coco") else "test+train_extra")
    assert config.evaluate.split == "val"
    row = next(line for line in RECIPES.splitlines() if line.startswith("| points that k-means starts from "))
    points = 20 * config.cluster.batch_size * (config.views.size // 4) ** 2
    assert f"{points / 1e6:.1f} million" in row  # of the published code
    assert f"`cluster.init_points` = {config.cluster.init_points:,}" in row
    images = 49_629 if preset.startswith("coco") else 1_525 + 19_998
    height, width = config.views.frame_size
    assert 1 <= config.run.cache_gb * 1e9 / (images * 3 * height * width) < 1.3  # every image is decoded once
    assert (config.loss, config.model.laterals) == (reference.loss, "random")
    assert config.views.invariance == reference.views.invariance
    assert config.cluster.metric == reference.cluster.metric
