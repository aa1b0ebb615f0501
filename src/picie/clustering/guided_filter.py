"""The guided filter: smooths maps, but not across the edges of a picture (He, Sun and Tang, 2013).

Around each pixel each map is fitted by a linear function of the picture's colours. The fits of all
squares that hold a pixel are averaged, and applied to its colour.

Shapes: B pictures, C maps, h w pixels or feature cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Up to this length a mean over squares is a product with a matrix. With 97 maps of 80 x 107 and a
# radius of 10 it takes 2.6 ms where pooling takes 59 (one core).
_MATRIX = 1024


def guided_filter(maps: Tensor, guide: Tensor, radius: int, eps: float) -> Tensor:
    """Filter `maps` by the edges of `guide`.

    Args:
        maps: (B, C, h, w) float32.
        guide: (B, 3, h, w) float32 colours in [0, 1].
        radius: half the side of the squares, in pixels, at least 1.
        eps: variance of colours below which a square counts as flat; there the result is the mean.

    Returns:
        (B, C, h, w) float32. Maps that sum to 1 over C still do; values can leave the range of
        `maps`.
    """
    slopes, offsets = guided_fits(maps, guide, radius, eps)
    return (slopes * guide[:, :, None]).sum(1) + offsets


def guided_fits(maps: Tensor, guide: Tensor, radius: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return the averaged fits of `maps`, from which `guided_filter` computes its result.

    Returns:
        (B, 3, C, h, w) slopes and (B, C, h, w) offsets.
    """
    mean, mean_map = _means(guide, radius), _means(maps, radius)
    common = _means(guide[:, :, None] * maps[:, None], radius) - mean[:, :, None] * mean_map[:, None]
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    products = _means(torch.stack([guide[:, i] * guide[:, j] for i, j in pairs], 1), radius)
    scatter = products - torch.stack([mean[:, i] * mean[:, j] for i, j in pairs], 1)
    inverse = _inverse(scatter, eps)
    slopes = torch.stack(
        [sum((row[j][:, None] * common[:, j] for j in (1, 2)), row[0][:, None] * common[:, 0]) for row in inverse], 1
    )
    offsets = mean_map - (slopes * mean[:, :, None]).sum(1)
    return _means(slopes, radius), _means(offsets, radius)


def _inverse(entries: Tensor, eps: float) -> list[list[Tensor]]:
    """Invert symmetric matrices with `eps` added to their diagonals, by their factors L D L^T.

    This takes 1 ms where `torch.linalg.solve` takes 40 (8,560 matrices, one core). Cofactors cancel
    on grey pictures, whose channels are equal: with them 3 % of the cells of a black-and-white
    picture got another cluster than in float64.

    Args:
        entries: (B, 6, h, w) the entries of the upper triangles, row by row.
        eps: is positive.

    Returns:
        The rows of the inverses, of entries (B, h, w).
    """
    a, b, c, d, e, f = entries.unbind(1)
    d1 = a + eps
    l1, l2 = b / d1, c / d1
    d2, rest = d + eps - l1 * b, e - l1 * c
    l3 = rest / d2
    d3 = f + eps - l2 * c - l3 * rest
    last = l1 * l3 - l2  # L^-1 has the rows (1, 0, 0), (-l1, 1, 0) and (last, -l3, 1)
    first = [1 / d1 + l1 * l1 / d2 + last * last / d3, -l1 / d2 - last * l3 / d3, last / d3]
    second = [first[1], 1 / d2 + l3 * l3 / d3, -l3 / d3]
    return [first, second, [first[2], second[2], 1 / d3]]


def _means(maps: Tensor, radius: int) -> Tensor:
    """Means of (..., h, w) over squares of `radius` around each pixel, as far as they lie inside."""
    return _mean_along(_mean_along(maps, radius).mT, radius).mT


def _mean_along(maps: Tensor, radius: int) -> Tensor:
    """Means of (..., n) over runs of `radius` around each entry."""
    n = maps.shape[-1]
    if n > _MATRIX:
        lines = maps.reshape(1, -1, n)
        return F.avg_pool1d(lines, 2 * radius + 1, 1, radius, count_include_pad=False).view(maps.shape)
    position = torch.arange(n, device=maps.device)
    near = ((position[:, None] - position).abs() <= radius).to(maps.dtype)
    return maps @ (near / near.sum(0))
