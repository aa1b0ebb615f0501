"""The law of geometric transforms: for an equivariant network, net(G x) = G net(x) (DESIGN, contract B)."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from picie.errors import InputError
from picie.registry import EQUIVARIANCE, INVARIANCE
from picie.runtime.rng import ImageRNG
from picie.views.base import Geometric, build_transform
from picie.views.equivariance import Crop, HorizontalFlip, QuarterTurns, VerticalFlip
from picie.views.geometry import Geometry

STRIDE = 4
N = 50


def net(x: Tensor) -> Tensor:
    """4x4 mean pooling: equivariant to whatever moves by whole cells."""
    return F.avg_pool2d(x, STRIDE)


def draws(n: int = N, seed: int = 0) -> ImageRNG:
    return ImageRNG((seed, 0, "test"), range(n))


def snapped(box: Tensor, cells: int) -> Tensor:
    """A box (4,) moved onto the grid of cells, at least one wide."""
    edges = (box * cells).round()
    for a, b in ((0, 1), (2, 3)):
        if edges[a] == edges[b]:
            edges[a if edges[a] < cells else b] += 1
    return edges / cells


@pytest.mark.parametrize("name", EQUIVARIANCE)
def test_law_exact_for_aligned_geometry(name: str) -> None:
    transform = build_transform(Geometric, {"name": name})
    x = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    drawn = transform.draw(draws())
    assert len({tuple(box.tolist()) for box in drawn.box}) > 1 or bool(drawn.transpose.any())
    for box, transpose in zip(drawn.box, drawn.transpose, strict=True):
        box = snapped(box, 48 // STRIDE)
        geometry = Geometry(box[None], transpose[None])
        h, w = (round(float((box[i] - box[i + 1]).abs()) * 48 / STRIDE) for i in (0, 2))
        image_first = net(geometry.apply(x, (h * STRIDE, w * STRIDE)))
        torch.testing.assert_close(image_first, geometry.apply(net(x), (h, w)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", EQUIVARIANCE)
def test_law_for_every_draw_on_smooth_images(name: str) -> None:
    coarse = torch.rand(N, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    x = F.interpolate(coarse, (96, 96), mode="bicubic", align_corners=True)  # three gentle waves across the image
    geometry = build_transform(Geometric, {"name": name}).draw(draws())
    image_first = net(geometry.apply(x, (96, 96)))
    network_first = geometry.apply(net(x), (24, 24))
    inner = (..., slice(1, -1), slice(1, -1))  # at the frame's edge, half a cell is missing to interpolate from
    assert (image_first - network_first)[inner].abs().max() < 0.02
    moved = (net(x) - network_first)[inner].abs().amax((1, 2, 3))
    assert (moved > 0.1).float().mean() > 0.3  # the law is not met by standing still


@pytest.mark.parametrize("name", EQUIVARIANCE)
def test_features_images_and_labels_move_together(name: str) -> None:
    """A map of positions, read as an image, as wide features and as labels, tells the same story."""
    geometry = build_transform(Geometric, {"name": name}).draw(draws())
    grid = torch.arange(32).repeat(N, 32, 1) + 32 * torch.arange(32).view(1, 32, 1)
    labels = geometry.apply_labels(grid, (8, 8))
    y, x = (labels // 32).double() + 0.5, (labels % 32).double() + 0.5
    position = torch.stack([grid // 32, grid % 32], dim=1).double() + 0.5
    image = geometry.apply(position, (8, 8))
    features = geometry.apply(position.repeat(1, 4, 1, 1).contiguous(memory_format=torch.channels_last), (8, 8))
    torch.testing.assert_close(features[:, :2], image)
    assert (image - torch.stack([y, x], dim=1)).abs().max() <= 1.0  # nearest: half a cell; antialiasing at edges: the rest


def test_crop_is_uniform_in_side_and_position() -> None:
    geometry = Crop((0.5, 1.0)).draw(draws(5000))
    box = geometry.box
    side = box[:, 1] - box[:, 0]
    torch.testing.assert_close(side, box[:, 3] - box[:, 2])  # the frame's own shape
    assert box.min() >= 0
    assert box.max() <= 1
    assert stats.kstest((side.numpy() - 0.5) / 0.5, "uniform").pvalue > 1e-3
    for edge in (0, 2):
        assert stats.kstest((box[:, edge] / (1 - side)).numpy(), "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(box[:, 0] / (1 - side), box[:, 2] / (1 - side)).statistic) < 0.06
    assert not geometry.transpose.any()


def test_a_crop_of_scale_one_is_the_identity() -> None:
    assert torch.equal(Crop((1.0, 1.0)).draw(draws()).box, Geometry.identity(N).box)


@pytest.mark.parametrize(("family", "dim"), [(HorizontalFlip, 3), (VerticalFlip, 2)])
def test_flips(family: type[HorizontalFlip] | type[VerticalFlip], dim: int) -> None:
    x = torch.rand(N, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(family(1.0).draw(draws()).apply(x, (6, 6)), x.flip(dim))
    assert torch.equal(family(0.0).draw(draws()).apply(x, (6, 6)), x)
    flipped = (family(0.3).draw(draws(5000)).box != Geometry.identity(5000).box).any(1)
    assert stats.binomtest(int(flipped.sum()), 5000, 0.3).pvalue > 1e-3


def test_quarter_turns_are_the_three_turns_of_torch_equally_often() -> None:
    x = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(36).view(1, 6, 6)
    geometry = QuarterTurns(0.75).draw(draws(2000))
    images = geometry.apply(x.expand(2000, -1, -1, -1), (6, 6))
    maps = geometry.apply_labels(labels.expand(2000, -1, -1), (6, 6))
    counts = []
    for turns in range(4):
        same = (images - torch.rot90(x, turns, (2, 3))).abs().amax((1, 2, 3)) < 1e-6
        assert torch.equal(same, (maps == torch.rot90(labels, turns, (1, 2))).all(2).all(1))
        counts.append(int(same.sum()))
    assert sum(counts) == 2000  # nothing but turns: no transposed or mirrored picture
    assert stats.chisquare(counts).pvalue > 1e-3
    assert torch.equal(QuarterTurns(0.0).draw(draws()).apply_labels(labels.expand(N, -1, -1), (6, 6))[7], labels[0])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "crp"}, ["views.equivariance", "'crp'", "'crop'"]),
        ({"name": "hflip", "prob": 0.5}, ["hflip", "'prob'", "valid: p"]),
        ({"name": "crop", "scale": [0.8, 0.2]}, ["crop", "[0.8, 0.2]"]),
        ({"name": "crop", "scale": [0.0, 0.5]}, ["crop", "(0, 1]"]),
        ({"name": "vflip", "p": 1.5}, ["vflip", "1.5", "[0, 1]"]),
        *[({"name": name}, ["views.equivariance", repr(name), "views.invariance"]) for name in INVARIANCE],
    ],
)
def test_errors_say_what_is_wrong_and_what_would_be_right(spec: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        build_transform(Geometric, spec)
    assert all(word in str(error.value) for word in words), str(error.value)
