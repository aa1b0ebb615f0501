"""What each cluster looks like: hand-made pictures, and a network that only sees their colours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.report.conftest import decode
from torch.nn import functional as F

from picie.report.contact_sheets import gather_sheets

RED, BLUE = (200, 0, 0), (0, 0, 100)


class Pictures:
    """Pictures of 40 x 20 pixels whose left part is red and whose rest is blue."""

    classes = None

    def __init__(self, *red: int) -> None:
        self.red = red

    def __len__(self) -> int:
        return len(self.red)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def image(self, index: int) -> Image.Image:
        pixels = np.full((20, 40, 3), BLUE, dtype=np.uint8)
        pixels[:, : self.red[index]] = RED
        return Image.fromarray(pixels)


class Colors:
    """A segmenter whose features are the mean colours of cells of 4 x 4 pixels; cluster 0 is never the nearest."""

    names, colors = ("nothing", "red", "blue"), ((9, 9, 9), (255, 0, 0), (0, 0, 255))
    value_of_cluster = np.array([0, 2, 1])
    classifier = (torch.tensor([[-1.0, -1, -1], [0, 0, 1], [1, 0, 0]]), torch.zeros(3))

    def values(self, clusters: np.ndarray) -> np.ndarray:
        return self.value_of_cluster[clusters]

    def to_pixels(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].copy())

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.avg_pool2d(pixels.float(), 4), dim=1)


def subject(*red: int) -> Any:
    return SimpleNamespace(segmenter=Colors(), images=Pictures(*red), config=SimpleNamespace(seed=0), notes=[], folder=Path())


def test_shares_and_mean_colors_are_those_of_the_pixels() -> None:
    (red, blue, nothing), n = gather_sheets(subject(40, 20, 20))
    assert n == 3
    assert (red.name, red.color, red.clusters, red.mean) == ("red", "#ff0000", [2], "#c80000")
    assert (blue.name, blue.color, blue.clusters, blue.mean) == ("blue", "#0000ff", [1], "#000064")
    assert red.share == pytest.approx(2 / 3)
    assert blue.share == pytest.approx(1 / 3)
    assert (nothing.share, nothing.mean, nothing.crops) == (0.0, None, [])


def test_crops_are_of_different_images_with_the_surest_first() -> None:
    (_, blue, _), _ = gather_sheets(subject(40, 40, 40, 38, 37, 36))
    assert [crop.title for crop in blue.crops] == ["5.png", "4.png"]  # in 3.png the cell is more red than blue
    (blue, *_), _ = gather_sheets(subject(*[20] * 30))
    assert len({crop.title for crop in blue.crops}) == len(blue.crops) == 8


def test_a_crop_keeps_its_own_pixels_and_greys_the_others() -> None:
    (_, blue, _), _ = gather_sheets(subject(36, 40))
    crop = np.asarray(decode(blue.crops[0].uri).convert("RGB")).astype(int)
    assert crop.shape == (112, 112, 3)
    left, right = crop[40:70, :20], crop[5:20, -8:]
    assert np.ptp(left, axis=2).max() < 12  # the red half has lost its colour
    assert (right[..., 2] - right[..., 0]).min() > 10


def test_without_images_there_are_no_sheets() -> None:
    without = subject()
    without.images = None
    assert gather_sheets(without) == ([], 0)
