"""Filters along rows and columns: each cell that comes out is a weighed mean of the cells around its centre.

There are two ways. `filtered` multiplies with the weights of near cells alone; it is for pictures, of whose cells few are near.
`resampling_matrix` holds the weights of all cells; it is for feature maps, which are small, and whose gradients are then
products, too, and come in one order on every device.

Shapes: B batch, C channels, H W cells in, n cells out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.transfer import sent

_BAND = 32  # cells out that one product makes
_ROUND = 4  # cells in are as many times that, so that products come in few shapes


@dataclass(frozen=True)
class Filter:
    """What makes the cells along one axis.

    Attributes:
        centres: (B, n) float64 on the CPU, where in the cells that go in, counted from the middle of the first; monotone.
        reach: (B,) float64 on the CPU: cells farther from a centre have no weight.
        weigh: makes weights, not negative, of distances (B, ...) float32 on the device, which it may overwrite; the mean is
            by the share of each.
    """

    centres: Tensor
    reach: Tensor
    weigh: Callable[[Tensor], Tensor]


def filtered(x: Tensor, rows: Filter, columns: Filter) -> Tensor:
    """`x` (B, C, H, W), floating point, by `rows` along H and by `columns` along W: (B, C, n, n'), a view of its transpose.

    Cells outside `x` are left out of the mean.
    """
    return _along_rows(_along_rows(x, rows).mT, columns).mT


def _along_rows(x: Tensor, by: Filter) -> Tensor:
    """(B, C, n, W), a view: each band of rows is a product with the rows near to it, copied together.

    On 2 cores, 16 frames of 320 px to crops of 160 in bfloat16, both axes: 3.3 ms, with dense matrices 7.3; of 640 to 320 px 16
    and 52 ms. Slices of each image in place of the copy take as long as dense matrices.
    """
    (b, c, height, width), n, device = x.shape, by.centres.shape[1], x.device
    if not b:
        return x.new_empty(b, c, n, width)
    bands = -(-n // _BAND)
    centres = F.pad(by.centres[:, None], (0, bands * _BAND - n), mode="replicate").view(b, bands, _BAND)
    first = (centres.amin(2) - by.reach[:, None]).floor_().clamp_(min=0)
    reached = int((centres.amax(2) + by.reach[:, None] - first).max()) + 1
    cells = min(height, -(-reached // _ROUND) * _ROUND)
    first = first.clamp_(max=height - cells)
    steps = torch.arange(cells, device=device)
    distances = steps - sent((centres - first[:, :, None]).float(), device)[..., None]
    weights = by.weigh(distances.abs_())
    weights = (weights / weights.sum(3, keepdim=True)).to(x.dtype)
    maps = torch.arange(0, b * c * height, height, device=device).view(b, 1, 1, c)
    near = maps + (sent(first.long(), device)[:, :, None] + steps)[..., None]
    copied = x.reshape(-1, width).index_select(0, near.flatten()).view(b * bands, cells, c * width)
    out = torch.bmm(weights.flatten(0, 1), copied).view(b, bands * _BAND, c, width)
    return out[:, :n].transpose(1, 2)


def triangle(start: Tensor, stop: Tensor, n_in: int, n_out: int, device: torch.device | str = "cpu") -> Filter:
    """The `n_out` cells between `start` and `stop`, (B,) float64 fractions of `n_in` cells; `start` > `stop` flips.

    A triangle about each centre, one cell in wide where the part is enlarged (bilinear interpolation) and as wide as a cell out
    where it is shrunk (antialiasing, as Pillow and torchvision do). That cells outside are left out is, at an edge, the same as
    repeating the border.
    """
    centres = positions(start, stop, n_out) * n_in - 0.5
    reach = ((stop - start).abs() * n_in / n_out).clamp(min=1.0)
    width = sent(-reach.float(), device)
    return Filter(centres, reach, lambda distances: distances.div_(_over(width, distances)).add_(1).clamp_(min=0))


def gaussian(sigma: Tensor, n: int, device: torch.device | str = "cpu") -> Filter:
    """A blur of `n` cells by `sigma` (B,), in cells and on the CPU."""
    centres = torch.arange(n, dtype=torch.float64).expand(len(sigma), n)
    steepness = sent(-0.5 / sigma.float().square(), device)
    reach = 8 * sigma.double()  # there the weight is exp(-32), and from there on: exp is slow where it comes near to 0
    return Filter(
        centres, reach, lambda distances: distances.square_().mul_(_over(steepness, distances)).clamp_(min=-32).exp_()
    )


def _over(values: Tensor, distances: Tensor) -> Tensor:
    """`values` (B,), to be combined with `distances` (B, ...)."""
    return values.view(-1, *[1] * (distances.dim() - 1))


def resampling_matrix(start: Tensor, stop: Tensor, n_in: int, n_out: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, n_out, n_in) float32, on `device`: what `triangle` weighs each cell with; rows sum to 1."""
    by = triangle(start, stop, n_in, n_out, device)
    cells = torch.arange(n_in, dtype=torch.float32, device=device)
    weights = by.weigh((cells - sent(by.centres.float(), device)[:, :, None]).abs_())
    return weights / weights.sum(2, keepdim=True)


def positions(start: Tensor, stop: Tensor, n_out: int) -> Tensor:
    """(B, n_out) the fractions where the `n_out` cells from `start` to `stop`, (B,) float64 fractions, have their centres."""
    cells = (torch.arange(n_out, dtype=torch.float64) + 0.5) / n_out
    return start[:, None] + (stop - start)[:, None] * cells
