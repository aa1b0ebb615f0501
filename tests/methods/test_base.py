"""The key property: cell (i, j) of one view shows the place that cell (i, j) of the other shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from picie.config import Config
from picie.methods.picie import PiCIE
from picie.registry import EQUIVARIANCE
from picie.views.two_views import BatchViews, TwoViews, ViewDraws

SIZE, STRIDE, N = 64, 4, 60
CELLS = SIZE // STRIDE
LISTS = [["crop"], ["hflip"], ["vflip"], ["rot90"], ["crop", "hflip"], ["rot90", "crop", "vflip", "crop"]]


def ramps(side: int) -> Tensor:
    """(1, 3, side, side): red tells the row, green the column, both in frame fractions, blue is constant."""
    place = (torch.arange(side) + 0.5) / side
    return torch.stack([place[:, None].expand(side, side), place.expand(side, side), torch.ones(side, side)])[None]


def positions(z: Tensor) -> Tensor:
    """(B, h, w, 2) frame fractions that features of `ramps` tell."""
    return (z[:, :2] / z[:, 2:]).permute(0, 2, 3, 1).double()


def promised(draws: ViewDraws) -> Tensor:
    """(B, h, w, 2) frame fractions that each cell's centre should show, by the box itself."""
    cells = (torch.arange(CELLS) + 0.5) / CELLS
    y0, y1, x0, x1 = draws.geometry.box.T[:, :, None]
    rows, columns = y0 + (y1 - y0) * cells, x0 + (x1 - x0) * cells
    place = torch.stack(torch.broadcast_tensors(rows[:, :, None], columns[:, None]), dim=3)
    return torch.where(draws.geometry.transpose[:, None, None, None], place.flip(3), place)


def views_of(
    network: nn.Module, configure: Callable[..., Config], frames: Tensor, names: list[str]
) -> tuple[Tensor, Tensor, ViewDraws]:
    method = PiCIE(configure(views={"size": SIZE}), network)
    draws = TwoViews([], [{"name": name} for name in names], 0).draw(1, range(len(frames)))
    batch = BatchViews(draws, (SIZE, SIZE), frames)
    return method.features(batch, 0), method.features(batch, 1), draws


@pytest.mark.parametrize("frame", [SIZE, 2 * SIZE])
@pytest.mark.parametrize("names", LISTS, ids="+".join)
def test_both_views_show_the_promised_place_in_each_cell(
    pool_network: nn.Module, configure: Callable[..., Config], frame: int, names: list[str]
) -> None:
    z1, z2, draws = views_of(pool_network, configure, ramps(frame).expand(N, -1, -1, -1), names)
    assert z1.shape == z2.shape == (N, 3, CELLS, CELLS)
    place = promised(draws)
    # Interpolation is exact on ramps (antialiasing by a broken factor nearly so), except within a cell of the frame's edge.
    inner = ((place > 1.2 / CELLS) & (place < 1 - 1.2 / CELLS)).all(3)
    assert inner.double().mean() > 0.6
    for z in (z1, z2):
        error = (positions(z) - place).abs().amax(3) * CELLS
        assert error[inner].max() < 0.02  # in cells; the published code is up to 1.4 off
        assert error.max() < 0.5  # not even at the edge half a cell


def test_every_registered_geometry_is_covered_above() -> None:
    assert {name for names in LISTS for name in names} == set(EQUIVARIANCE)


@pytest.mark.parametrize("names", LISTS, ids="+".join)
def test_features_of_both_views_agree_on_smooth_pictures(
    pool_network: nn.Module, configure: Callable[..., Config], names: list[str]
) -> None:
    coarse = torch.rand(N, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    frames = nn.functional.interpolate(coarse, (2 * SIZE, 2 * SIZE), mode="bicubic", align_corners=True).clamp(0, 1)
    z1, z2, _ = views_of(pool_network, configure, frames, names)
    agreement = (z1 * z2).sum(1)[:, 1:-1, 1:-1]
    assert agreement.min() > 0.98
    assert agreement.mean() > 0.999
    other = (z1 * z2.roll(3, dims=3)).sum(1)[:, 1:-1, 1:-1]  # three cells off, and it would show
    assert other.mean() < agreement.mean() - 10 * (1 - agreement.mean())


def test_features_have_norm_one_and_do_not_depend_on_the_batch(
    network: nn.Module, configure: Callable[..., Config], batch: Callable[..., tuple]
) -> None:
    method = PiCIE(configure(), network)
    views, _, _ = batch(2, 6)
    options = configure().views
    alone = TwoViews(options.invariance, options.equivariance, 0).draw(2, [9])
    for view in (0, 1):
        z = method.features(views, view)
        assert z.shape == (3, 6, 8, 8)
        torch.testing.assert_close(z.norm(dim=1), torch.ones(3, 8, 8))
        torch.testing.assert_close(
            method.features(BatchViews(alone, views.size, views.frames[2:]), view), z[2:], atol=1e-5, rtol=0
        )


def test_view_0_transforms_the_image_and_view_1_the_features(network: nn.Module, configure: Callable[..., Config]) -> None:
    """f(G x) and G(f(x)), told apart by a network that is not equivariant: it knows left from right."""
    frames = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = PiCIE(configure(), network)
    draws = TwoViews([], [{"name": "hflip", "p": 1.0}], 0).draw(0, [0, 1])
    with torch.no_grad():
        first, second = nn.functional.normalize(network(frames.flip(3))), nn.functional.normalize(network(frames)).flip(3)
    batch = BatchViews(draws, (32, 32), frames)
    torch.testing.assert_close(method.features(batch, 0).detach(), first)
    torch.testing.assert_close(method.features(batch, 1).detach(), second)
    assert (first - second).abs().max() > 0.1


def test_the_bias_belongs_to_the_euclidean_metric_alone(network: nn.Module, configure: Callable[..., Config]) -> None:
    centroids = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = -0.5 * np.square(centroids.numpy()).sum(2)
    for metric, offset in (("euclidean", expected), ("spherical", 0 * expected), ("mixed", 0 * expected)):
        method = PiCIE(configure(cluster={"metric": metric}), network)
        method.start_epoch(centroids, None, 0)
        np.testing.assert_allclose(method.logit_bias(centroids), offset, rtol=1e-5)
        weight, bias = method.classifier()  # of view 0, whose features are those of whole pictures
        assert torch.equal(weight, centroids[0])
        np.testing.assert_allclose(bias, offset[0], rtol=1e-5)
