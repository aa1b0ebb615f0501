"""Accuracy near the borders between classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from picie.data.base import UNMATCHED
from picie.scoring.boundaries import BorderCounts, boundary_accuracy, near_borders


def by_hand(label: np.ndarray, ignore: int, radius: int) -> np.ndarray:
    near = np.zeros(label.shape, np.bool_)
    for y, x in np.ndindex(label.shape):
        around = label[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        near[y, x] = label[y, x] != ignore and len(set(around[around != ignore].tolist())) > 1
    return near


@pytest.mark.parametrize("radius", [1, 3])
def test_pixels_near_borders_are_those_found_one_by_one(radius: int) -> None:
    label = np.random.default_rng(0).integers(0, 3, (5, 6)).repeat(6, 0).repeat(5, 1).astype(np.uint8)
    label[8:14, 3:20] = 255
    expected = by_hand(label, 255, radius)
    assert 0 < expected.sum() < expected.size
    assert np.array_equal(near_borders(label, 255, radius), expected)


def test_a_map_of_one_class_has_no_border() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[:, 4:] = 255
    assert not near_borders(label, 255).any()


def test_counts_add_up_over_images() -> None:
    label = np.zeros((20, 20), np.uint8)
    label[:, 10:] = 1
    clusters = 1 - label
    clusters[:, 10] = 1  # a column that is one pixel off
    counts = BorderCounts(2, 3, 255)
    counts.add(label, clusters)
    counts.add(label, clusters)
    assert counts.total().tolist() == [[0, 120, 0], [80, 40, 0]]
    assert boundary_accuracy(counts.total(), np.array([1, 0, UNMATCHED])) == pytest.approx(200 / 240)
    assert boundary_accuracy(counts.total(), np.array([UNMATCHED, 0, 1])) == pytest.approx(120 / 240)
    assert np.isnan(boundary_accuracy(np.zeros((2, 3)), np.array([1, 0, UNMATCHED])))


def test_score_and_evaluate_print_it(
    cli: Callable[..., tuple[int, str, str]], untrained: Path, labelled_folder: Path, tmp_path: Path
) -> None:
    labels, out = labelled_folder / "labels" / "val", tmp_path / "moved"
    out.mkdir()
    right = near = 0
    for path in sorted(labels.glob("*.png")):
        label = np.asarray(Image.open(path))
        moved = np.roll(label, 1, axis=1)
        moved[moved == 255] = 0
        Image.fromarray(moved).save(out / path.name)
        mask = near_borders(label, 255)
        right, near = right + int((moved == label)[mask].sum()), near + int(mask.sum())
    file = tmp_path / "scores.json"
    command = ("score", out, labels, "--classes", labelled_folder / "classes.toml", "--matching", "identity")
    status, stdout, _ = cli(*command, "--json", file)
    assert status == 0
    assert json.loads(file.read_text())["boundary_accuracy"] == pytest.approx(100 * right / near, abs=1e-3)
    assert f"boundary accuracy {100 * right / near:.1f}  (pixels within 3 px" in stdout
    status, stdout, _ = cli("evaluate", untrained, "--json", file)
    assert status == 0
    assert "boundary accuracy" in stdout
    assert 0 < json.loads(file.read_text())["boundary_accuracy"] < 100
