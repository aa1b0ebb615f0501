"""Colour conversion against published values, and the colour k-means on pictures that have an answer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from picie import baselines
from picie.baselines import color_and_position, color_kmeans, sample_pixels
from picie.config import Config
from picie.errors import InputError, UnreadableImageError
from picie.evaluation import Predict
from picie.runlog import Progress


# CIELAB (D65, 2 degrees) of sRGB colours, from Bruce Lindbloom's calculator (brucelindbloom.com).
def test_colour_and_position_of_each_pixel() -> None:
    pixels = np.zeros((2, 3, 3, 5), dtype=np.uint8)
    pixels[1, 0, 2, 4] = 255  # one red pixel, in the last corner of the second image
    points = color_and_position(pixels).reshape(2, 3, 5, 5)
    np.testing.assert_allclose(points[1, 2, 4], [53.24, 80.09, 67.20, 1, 1], atol=0.03)
    np.testing.assert_allclose(points[1, 0, 0], [0, 0, 0, -1, -1], atol=1e-9)
    np.testing.assert_allclose(points[0, 1, 2], [0, 0, 0, 0, 0], atol=1e-9)
    assert np.abs(points[0, ..., :3]).max() == 0


class Pictures:
    classes = None

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> Image.Image:
        if not self.pictures[index].size:
            raise UnreadableImageError("broken")
        return Image.fromarray(self.pictures[index])


def config(k: int) -> Config:
    return Config.model_validate({"cluster": {"k": k}, "views": {"size": 16}})


def sampled(pictures: list[np.ndarray], k: int = 2) -> np.ndarray:
    with Progress(False) as bars:
        return sample_pixels(Pictures(pictures), config(k), bars)


def clustered(pictures: list[np.ndarray], k: int, weight: float) -> Predict:
    return color_kmeans(sampled(pictures, k), config(k), weight)


def checkers() -> tuple[np.ndarray, np.ndarray]:
    """A picture of four noisy colours in quarters, and the quarter of each pixel."""
    colors = np.array([[200, 30, 30], [30, 170, 40], [40, 60, 190], [210, 210, 90]])
    quarters = np.kron(np.arange(4).reshape(2, 2), np.ones((8, 8), dtype=int))
    noise = np.random.default_rng(0).integers(-9, 10, (16, 16, 3))
    return (colors[quarters] + noise).astype(np.uint8), quarters


def test_an_equal_number_of_pixels_of_each_picture_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    first, broken, second = checkers()[0], np.zeros((0, 0, 3)), np.full((16, 16, 3), 255, dtype=np.uint8)
    own = color_and_position(first.transpose(2, 0, 1)[None])
    points = sampled([first, broken, second])
    assert points.shape == (2 * 16 * 16, 5)  # all of them, where they are few
    np.testing.assert_array_equal(points[:256][np.lexsort(points[:256].T)], own[np.lexsort(own.T)])
    monkeypatch.setattr(baselines, "_SAMPLE", 300)
    points = sampled([first, broken, second])
    assert points.shape == (200, 5)
    assert len(np.unique(points[:100], axis=0)) == 100  # none twice
    assert {tuple(point) for point in points[:100]} <= {tuple(point) for point in own}
    np.testing.assert_allclose(points[100:, :3], np.broadcast_to([100, 0, 0], (100, 3)), atol=0.02)
    np.testing.assert_array_equal(points, sampled([first, broken, second]))


def test_colours_are_told_apart() -> None:
    picture, quarters = checkers()
    predict = clustered([picture, np.zeros((0, 0, 3)), picture[::-1]], 4, 0.0)
    clusters = predict(torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()), (16, 16))
    assert clusters.shape == (1, 16, 16)
    assert {(int(q), int(c)) for q, c in zip(quarters.ravel(), clusters.ravel(), strict=True)} in [
        set(enumerate(order)) for order in product(range(4), repeat=4) if len(set(order)) == 4
    ]


def test_position_tells_apart_what_colour_does_not() -> None:
    picture = np.random.default_rng(1).integers(100, 150, (16, 16, 3)).astype(np.uint8)  # noise without any layout
    pixels = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy())

    def neighbours_agree(weight: float) -> float:
        clusters = clustered([picture], 2, weight)(pixels, (16, 16))[0]
        assert np.bincount(clusters.ravel(), minlength=2).min() > 60
        return float(np.mean(clusters[:, 1:] == clusters[:, :-1]))

    assert neighbours_agree(0.0) < 0.65
    assert neighbours_agree(10.0) > 0.9


def test_scored_at_the_size_of_its_pixels_alone() -> None:
    predict = clustered([checkers()[0]], 2, 0.0)
    with pytest.raises(InputError, match="size of their pixels"):
        predict(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), (32, 32))
