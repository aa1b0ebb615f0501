"""Filters along rows and columns: each cell that comes out is a weighted mean of the cells around its centre.

There are two ways. `filtered` multiplies with the weights of near cells alone; it is for pictures, of whose cells few are near.
`resampling_matrix` holds the weights of all cells; it is for feature maps, which are small, and whose gradients are then
products, too, and come in one order on every device.

Shapes: B batch, C channels, H W cells in, n cells out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from picie.runtime.device import to_device

_BAND = 32  # cells out that one product makes
_ROUND = 4  # cells in are as many times that, so that products come in few shapes
_AT_ONCE = 2**22  # bytes that are copied together on a CPU, which its cache can hold


@dataclass(frozen=True)
class Filter:
    """What makes the n cells along one axis, of B images.

    Attributes:
        n: number of cells out.
        offset: (B,) float64 on the CPU, where in the cells that go in the first has its centre, from the middle of the first.
        step: (B,) float64 on the CPU, from one centre to the next.
        reach: (B,) float64 on the CPU: cells farther from a centre have no weight that counts.
        most: no step and no reach is larger, whichever images come together. It says how many cells are multiplied with, so an
            image's numbers do not depend on those beside it.
        weigh: makes weights, not negative, of distances (B, ...) float32 on the device, which it may overwrite; the mean is
            by the share of each.
    """

    n: int
    offset: Tensor
    step: Tensor
    reach: Tensor
    most: tuple[float, float]
    weigh: Callable[[Tensor], Tensor]


def filtered(x: Tensor, rows: Filter, columns: Filter) -> Tensor:
    """`x` (B, C, H, W), floating point, by `rows` along H and by `columns` along W: (B, C, n, n'). Cells outside are left out.

    Each band of rows is a product with the rows near to it, copied together; then columns become rows. On 2 cores, 16 frames of
    320 px to crops of 160 in bfloat16: 3.7 ms, by dense matrices 7.1; of 640 px to 320 17 and 50.
    """
    b, c, height, width = x.shape
    by_rows, by_columns = _Windows(rows, height, x), _Windows(columns, width, x)
    out = x.new_empty(b, c, rows.n, columns.n)
    copied = c * max(by_rows.cells * width, by_columns.cells * rows.n) * x.element_size()
    at_once = max(1, _AT_ONCE // copied) if x.device.type == "cpu" else max(1, b)
    for start in range(0, b, at_once):
        part = slice(start, start + at_once)
        out[part] = by_columns.along_rows(by_rows.along_rows(x[part], part).mT, part).mT
    return out


class _Windows:
    """For each band of cells out, which cells go in, and with which weights."""

    def __init__(self, by: Filter, n_in: int, like: Tensor) -> None:
        device, (step, reach) = like.device, by.most
        for band in (min(_BAND, by.n), by.n):
            bands = -(-by.n // band)
            cells = min(n_in, -(-math.ceil((band - 1) * step + 2 * reach + 1 - 1e-6) // _ROUND) * _ROUND)
            if bands * cells < 2 * n_in:
                break  # else all in one product, for copies are what takes the time
        starts = torch.arange(0, by.n, band)
        ends = (by.offset[:, None] + by.step[:, None] * i for i in (starts, (starts + band).clamp(max=by.n) - 1))
        first = torch.minimum(*ends).sub_(by.reach[:, None]).ceil_().clamp_(0, n_in - cells)
        offsets = by.offset[:, None] + by.step[:, None] * starts - first
        centres = _centres(offsets, by.step[:, None], band, device)
        weights = by.weigh((torch.arange(cells, device=device) - centres[..., None]).abs_())
        self.weights = (weights / weights.sum(3, keepdim=True)).to(like.dtype)  # (B, bands, band, cells)
        self.near = to_device(first.long(), device)[:, :, None] + torch.arange(cells, device=device)  # (B, bands, cells)
        self.n, self.cells = by.n, bands * cells

    def along_rows(self, x: Tensor, part: slice) -> Tensor:
        """(b, C, n, W), a view, of the images `part`, `x` (b, C, H, W)."""
        (b, c, height, width), weights = x.shape, self.weights[part]
        maps = torch.arange(0, b * c * height, height, device=x.device).view(b, 1, 1, c)
        near = (self.near[part, :, :, None] + maps).flatten()
        copied = x.reshape(-1, width).index_select(0, near).view(b * weights.shape[1], -1, c * width)
        out = torch.bmm(weights.flatten(0, 1), copied).view(b, -1, c, width)
        return out[:, : self.n].transpose(1, 2)


def triangle(start: Tensor, stop: Tensor, n_in: int, n_out: int, device: torch.device | str = "cpu") -> Filter:
    """The `n_out` cells between `start` and `stop`, (B,) float64 fractions of `n_in` cells; `start` > `stop` flips.

    A triangle about each centre, one cell in wide where the part is enlarged (bilinear interpolation) and as wide as a cell out
    where it is shrunk (antialiasing, as Pillow and torchvision do). That cells outside are left out is, at an edge, the same as
    repeating the border.
    """
    step = (stop - start) * n_in / n_out
    widest = max([n_in / n_out, *step.abs().tolist()])  # that of the whole frame, unless a box goes beyond
    reach = step.abs().clamp(min=1.0)
    width = to_device(-reach.float(), device)
    return Filter(
        n=n_out,
        offset=start * n_in + step / 2 - 0.5,
        step=step,
        reach=reach,
        most=(widest, max(1.0, widest)),
        weigh=lambda distances: distances.div_(_over(width, distances)).add_(1).clamp_(min=0),
    )


def gaussian(sigma: Tensor, n: int, most: float, device: torch.device | str = "cpu") -> Filter:
    """A blur of `n` cells by `sigma` (B,), in cells and on the CPU, which of any batch is at most `most`."""
    steepness = to_device(-0.5 / sigma.float().square(), device)
    return Filter(
        n=n,
        offset=torch.zeros(len(sigma), dtype=torch.float64),
        step=torch.ones(len(sigma), dtype=torch.float64),
        reach=8 * sigma.double(),  # there the weight is exp(-32), and from there on: exp is slow where it comes near to 0
        most=(1.0, 8 * max([most, *sigma.tolist()])),
        weigh=lambda distances: distances.square_().mul_(_over(steepness, distances)).clamp_(min=-32).exp_(),
    )


def _over(values: Tensor, distances: Tensor) -> Tensor:
    """`values` (B,), to be combined with `distances` (B, ...)."""
    return values.view(-1, *[1] * (distances.dim() - 1))


def _centres(offset: Tensor, step: Tensor, n: int, device: torch.device | str) -> Tensor:
    """(..., n) float32, on `device`, offset + step * i of (...) float64 `offset` and `step`, which are little to send."""
    if torch.device(device).type == "mps":  # which has no float64
        offset, step = offset.float(), step.float()
    offset, step = (to_device(values, device)[..., None] for values in (offset, step))
    return (offset + step * torch.arange(n, device=device)).float()


def resampling_matrix(start: Tensor, stop: Tensor, n_in: int, n_out: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, n_out, n_in) float32, on `device`: what `triangle` weighs each cell with; rows sum to 1."""
    by = triangle(start, stop, n_in, n_out, device)
    centres = _centres(by.offset, by.step, n_out, device)
    weights = by.weigh((torch.arange(n_in, device=device) - centres[:, :, None]).abs_())
    return weights / weights.sum(2, keepdim=True)
