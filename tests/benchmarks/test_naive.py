"""The naive recipe does the work of the published method, and in the way that is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import naive, naive_data
from benchmarks.naive import Naive
from benchmarks.naive_data import Pictures, box_of, label_file
from picie.config import Config

Setting = Callable[..., Config]


def recipe(config: Config, folder: Path) -> Naive:
    return Naive(config, folder, workers=0)


def test_an_epoch_takes_six_forwards_and_two_backwards_an_image(setting: Setting, tmp_path: Path) -> None:
    made = recipe(setting(), tmp_path)
    made.warm_up()
    passes = made.epoch(0)
    assert list(passes) == ["cluster view 1", "cluster view 2", "label view 1", "label view 2", "train", "evaluate"]
    assert made.calls == {"forwards": 6 * 6 + 2, "backwards": 2 * 6}


def test_a_label_file_is_written_for_each_image_and_view(setting: Setting, tmp_path: Path) -> None:
    recipe(setting(), tmp_path).epoch(0)
    assert sorted(tmp_path.iterdir()) == sorted(label_file(tmp_path, view, index) for view in (0, 1) for index in range(6))
    for file in tmp_path.iterdir():
        label = np.load(file)
        assert label.shape == (8, 8)
        assert label.max() < 3


def test_without_labels_nothing_is_scored(setting: Setting, labelled_folder: Path, tmp_path: Path) -> None:
    made = recipe(setting(root=labelled_folder / "images" / "train"), tmp_path)
    assert "evaluate" not in made.epoch(0)
    assert made.calls["forwards"] == 6 * 6


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_backbone_stays_and_another_is_trained(setting: Setting, tmp_path: Path, freeze: bool) -> None:
    made = recipe(setting(f"model.freeze={str(freeze).lower()}"), tmp_path)
    network = made.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made.epoch(0)
    moved = {name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == ({"fpn"} if freeze else {"backbone", "fpn"})
    assert made.calls["backwards"] == 12


def test_it_runs_in_fp32_and_the_default_layout(setting: Setting, tmp_path: Path) -> None:
    made = recipe(setting(), tmp_path)
    seen = []
    made.network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.network.fpn.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    made.warm_up()
    assert len(seen) > 1
    assert all(x.dtype == torch.float32 and x.is_contiguous() for x in seen)


def test_an_image_has_equal_draws_in_all_passes_of_an_epoch(labelled_folder: Path) -> None:
    paths = sorted((labelled_folder / "images" / "train").iterdir())

    def item(epoch: int, *views: int) -> Any:
        return Pictures(paths, (64, 64), (32, 32), epoch, views)[2]

    both = item(3, 0, 1)
    for view in (0, 1):
        alone = item(3, view)
        assert torch.equal(alone[2][0], both[2][view])
        assert np.array_equal(alone[1], both[1])
        assert not torch.equal(item(4, view)[2][0], both[2][view])
    assert not torch.equal(both[2][0], both[2][1])


def test_features_of_view_2_are_cropped_as_the_image_of_view_1_is(
    labelled_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without colours, cropping the image and cropping a map of it must agree, but for the resampling."""
    monkeypatch.setattr(naive_data, "recolour", lambda image, rng: image)
    paths = sorted((labelled_folder / "images" / "train").iterdir())
    flips = set()
    for epoch in range(6):
        _, box, (first, second), _ = Pictures(paths, (64, 64), (64, 64), epoch, (0, 1))[0]
        cropped = naive._crop(second[None], torch.from_numpy(box)[None])[0]
        smooth = [F.avg_pool2d(x[None], 8)[0] for x in (first, cropped, second)]
        assert (smooth[0] - smooth[1]).abs().mean() < 0.02 < (smooth[0] - smooth[2]).abs().mean()
        flips.add(float(box[3]))
    assert flips == {0.0, 1.0}


def test_boxes_lie_in_the_frame_and_have_half_to_all_of_its_side() -> None:
    boxes = np.stack([box_of(0, index) for index in range(200)])
    assert ((boxes[:, 2] >= 0.5) & (boxes[:, 2] <= 1)).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:3] <= 1 + 1e-6).all()
    assert 0.35 < boxes[:, 3].mean() < 0.65


def test_the_record_of_an_epoch_says_what_was_done(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naive, "cores", lambda: 1)  # a worker that loads the images
    found = naive.measure_naive(setting("cluster.init_batches=1"), tmp_path)
    assert (found["forwards"], found["backwards"], found["workers"]) == (38, 12, 1)
    assert found["seconds"] >= sum(found["passes"].values()) > 0
    assert found["peak_memory_mb"] > 50
