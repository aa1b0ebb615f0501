"""The guided filter against kornia's and against least squares in every square."""

from __future__ import annotations

import kornia
import numpy as np
import pytest
import torch
from torch import Tensor

from picie.clustering import guided_filter as module
from picie.clustering.guided_filter import guided_filter


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "radius"), [((9, 14), 2), ((7, 7), 1), ((5, 30), 4), ((3, 3), 8)])
@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_it_is_the_least_squares_fit_in_every_square(size: tuple[int, int], radius: int, eps: float) -> None:
    """Ridge regression without a penalty on the offset, in NumPy, averaged over the squares of a pixel."""
    maps, guide = random(1, 2, *size), random(1, 3, *size, seed=1)
    colors = guide[0].double().numpy().transpose(1, 2, 0)
    values = maps[0].double().numpy()
    height, width = size
    fits = np.zeros((2, height, width, 4))
    for y in range(height):
        for x in range(width):
            here = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
            c = colors[here].reshape(-1, 3)
            for i in range(2):
                v = values[i][here].ravel()
                centred = c - c.mean(0)
                slopes = np.linalg.solve(centred.T @ centred / len(c) + eps * np.eye(3), centred.T @ (v - v.mean()) / len(c))
                fits[i, y, x] = [*slopes, v.mean() - slopes @ c.mean(0)]
    expected = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            here = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
            mean = fits[:, here[0], here[1]].reshape(2, -1, 4).mean(1)
            expected[:, y, x] = mean[:, :3] @ colors[y, x] + mean[:, 3]
    got = guided_filter(maps, guide, radius, eps)[0].double().numpy()
    np.testing.assert_allclose(got, expected, atol=2e-4 if eps < 1e-3 else 2e-5)


def test_it_is_kornias_inside_the_border() -> None:
    maps, guide = random(2, 4, 40, 50), random(2, 3, 40, 50, seed=1)
    radius, eps = 3, 1e-3
    expected = kornia.filters.guided_blur(guide, maps, 2 * radius + 1, eps)
    inside = slice(2 * radius, -2 * radius)
    got = guided_filter(maps, guide, radius, eps)
    torch.testing.assert_close(got[..., inside, inside], expected[..., inside, inside], atol=2e-5, rtol=0)


def test_probabilities_still_sum_to_one_and_edges_stay() -> None:
    guide = torch.zeros(1, 3, 16, 16)
    guide[..., 8:] = 1
    sides = (guide[:, :1] == 1).float()
    noisy = (sides + 0.4 * (random(1, 1, 16, 16) - 0.5)).clamp(0, 1)
    smooth = guided_filter(torch.cat([noisy, 1 - noisy], 1), guide, 4, 1e-4)
    torch.testing.assert_close(smooth.sum(1), torch.ones(1, 16, 16), atol=1e-4, rtol=0)
    assert float((smooth[:, :1] - sides).abs().max()) < 0.2  # within each side the mean of the noise
    assert float(smooth[0, 0, :, 8].min() - smooth[0, 0, :, 7].max()) > 0.7  # the step is not blurred


def test_long_maps_are_averaged_without_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, guide = random(2, 3, 12, 31), random(2, 3, 12, 31, seed=1)
    expected = guided_filter(maps, guide, 3, 1e-3)
    monkeypatch.setattr(module, "_MATRIX", 8)
    torch.testing.assert_close(guided_filter(maps, guide, 3, 1e-3), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["grey", "black and white", "one colour"])
def test_pictures_whose_colours_depend_on_each_other_are_filtered_as_in_float64(name: str) -> None:
    values = random(4, 1, 40, 40, seed=1)
    guide = {"grey": values, "black and white": (values > 0.5).float(), "one colour": torch.full_like(values, 0.3)}[name]
    guide, maps = guide.expand(-1, 3, -1, -1).contiguous(), (5 * random(4, 11, 40, 40)).softmax(1)
    expected = guided_filter(maps.double(), guide.double(), 5, 1e-4)
    torch.testing.assert_close(guided_filter(maps, guide, 5, 1e-4).double(), expected, atol=2e-5, rtol=0)
