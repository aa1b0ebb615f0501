"""Logits of feature cells enlarged to pixels, in parts to limit the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from picie.views.resampling import resampling_matrix

_PATCHES = 2**20  # logits of rectangles enlarged at a time: 4 MB, which fit a CPU's cache
_SPARSE = 144  # pixels per cell from which on `labels_between` is faster
_CHUNK = 2**24  # logits enlarged at a time (64 MB), for pictures of any size
_TILE = 2**15  # rows of a resampling matrix: with 1024 cells it takes 128 MB


@dataclass(frozen=True)
class Axis:
    """The pixels of an output along one axis, and where they lie among feature cells.

    Attributes:
        first: the first pixel.
        last: the pixel after the last.
        step: cells per pixel.
        base: the number of the cell that the logits begin with.
    """

    first: int
    last: int
    step: float
    base: int = 0

    def cells(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the two cells that each pixel lies between, and their weights.

        Both are (pixels, 2). Beyond the middle of the first or the last of the `n` cells, both
        cells are that one, with the weights 1 and 0.
        """
        pixels = torch.arange(self.first, self.last, dtype=torch.float64)
        centre = (self.step / 2 - 0.5 + self.step * pixels - self.base).float().clamp(0, n - 1)
        low = centre.floor()
        cells = torch.stack([low, (low + 1).clamp(max=n - 1)], dim=1)
        weights = torch.stack([1 - (low - centre).abs(), centre - low], dim=1)
        return cells.long().to(device), weights.to(device)


def enlarged_argmax(logits: Tensor, size: tuple[int, int], values: Tensor | None = None) -> Tensor:
    """Enlarge logits to `size` and take the arg max, in parts to limit the memory.

    Args:
        logits: (B, K, h, w).
        size: (H, W).
        values: (K,) integers to return for the K clusters; None returns their indices.

    Returns:
        (B, H, W) of the dtype of `values`, or int64.
    """
    values = torch.arange(logits.shape[1], device=logits.device) if values is None else values
    (h, w), (height, width) = logits.shape[2:], size
    if is_sparse(h / height, w / width):
        return labels_between(logits, Axis(0, height, h / height), Axis(0, width, w / width), values)
    result = torch.empty((len(logits), *size), dtype=values.dtype, device=logits.device)
    for rows, columns, part in enlarged(logits, size):
        # `max` takes a sixth of the time of `argmax`.
        result[:, rows, columns] = values[part.max(1).indices]
    return result


def is_sparse(down: float, across: float) -> bool:
    """Whether cells are so far apart, in `down` and `across` cells per pixel, that `labels_between` is faster."""
    return max(down, across) <= 1 and down * across * _SPARSE <= 1


def labels_between(logits: Tensor, rows: Axis, columns: Axis, values: Tensor) -> Tensor:
    """Return the cluster of the largest logit at pixels between cells, enlarged bilinearly.

    Pixels between the same four cells form a rectangle. If one cluster is the largest in all four
    cells, it is the largest at all pixels between them, because their logits are weighted means of
    those of the cells. So only the other rectangles, along the borders of segments, are enlarged,
    and in each only the clusters that are not smaller than another one in all four cells.

    Args:
        logits: (B, K, h, w).
        rows: the rows of pixels; at most one cell each.
        columns: the columns of pixels; at most one cell each.
        values: (K,) integers to return for the clusters.

    Returns:
        (B, rows, columns) of the dtype of `values`.
    """
    (h, w), device = logits.shape[2:], logits.device
    down, across = _Runs.of(rows, h, device), _Runs.of(columns, w, device)
    best = logits.max(1).indices
    corners = [best[:, down.cells[:, i]][:, :, across.cells[:, j]] for i in (0, 1) for j in (0, 1)]
    agree = (corners[0] == corners[1]) & (corners[0] == corners[2]) & (corners[0] == corners[3])
    labels = values[corners[0]].repeat_interleave(across.lengths, 2).repeat_interleave(down.lengths, 1)
    image, top, left = (~agree).nonzero().T
    # (n, K, 2, 2)
    squares = logits[image[:, None, None], :, down.cells[top][:, :, None], across.cells[left][:, None, :]].permute(0, 3, 1, 2)
    pays = logits.shape[1] * rows.step * columns.step < 1  # comparing all pairs of clusters
    rivals = _undominated(squares) if pays else torch.ones(squares.shape[:2], dtype=torch.bool, device=device)
    shapes = torch.stack([down.lengths[top], across.lengths[left], rivals.sum(1)], dim=1)
    for shape in shapes.unique(dim=0):
        height, width, n = shape.tolist()
        alike = (shapes == shape).all(1).nonzero()[:, 0]
        for part in alike.split(max(1, _PATCHES // (n * height * width))):
            square, b = squares[part], image[part, None, None]
            y = down.starts[top[part]][:, None] + torch.arange(height, device=device)
            x = across.starts[left[part]][:, None] + torch.arange(width, device=device)
            chosen = rivals[part].nonzero()[:, 1].view(-1, n)
            square = square.gather(1, chosen[:, :, None, None].expand(-1, -1, 2, 2))
            # (part, n, height, width)
            patch = down.weights[y][:, None] @ square @ across.weights[x].mT[:, None]
            winners = chosen.gather(1, patch.max(1).indices.flatten(1)).view(-1, height, width)
            labels[b, y[:, :, None], x[:, None, :]] = values[winners]
    return labels


def _undominated(squares: Tensor) -> Tensor:
    """Return (n, K) whether no other cluster has larger logits in all four cells of (n, K, 2, 2)."""
    corners = squares.flatten(2)
    n, k, _ = corners.shape
    before = torch.ones(k, k, dtype=torch.bool, device=squares.device).tril(-1)  # of equal ones, the first stays
    result = torch.empty(n, k, dtype=torch.bool, device=squares.device)
    at_once = max(1, _PATCHES // (4 * k * k))
    for part, kept in zip(corners.split(at_once), result.split(at_once), strict=True):
        difference = part[:, None, :, :] - part[:, :, None, :]  # (n, k, other, 4)
        larger = (difference >= 0).all(3) & ((difference > 0).any(3) | before)
        kept.copy_(~larger.any(2))
    return result


class _Runs(NamedTuple):
    """Runs of pixels between the same two cells, along one axis.

    Attributes:
        cells: (runs, 2) the cells.
        starts: (runs,) the first pixel of each run.
        lengths: (runs,) the number of its pixels.
        weights: (pixels, 2) the weights of the cells at each pixel.
    """

    cells: Tensor
    starts: Tensor
    lengths: Tensor
    weights: Tensor

    @staticmethod
    def of(axis: Axis, n: int, device: torch.device) -> _Runs:
        cells, weights = axis.cells(n, device)
        _, lengths = cells[:, 0].unique_consecutive(return_counts=True)
        starts = lengths.cumsum(0) - lengths
        return _Runs(cells[starts], starts, lengths, weights)


def enlarged(logits: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the parts of logits (B, K, h, w) enlarged bilinearly to `size` (H, W).

    Each is a range of rows, a range of columns and (B, K, rows, columns) logits. Together they
    cover `size` once.
    """
    (batch, k, h, w), (height, width) = logits.shape, size
    for left, columns in _resampling_tiles(w, width, logits):
        at_once = max(1, _CHUNK // (batch * k * len(columns)))
        for top, rows in _resampling_tiles(h, height, logits):
            for first, part in zip(range(top, top + len(rows), at_once), rows.split(at_once), strict=True):
                yield slice(first, first + len(part)), slice(left, left + len(columns)), part @ logits @ columns.T


def _resampling_tiles(n_in: int, n_out: int, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield parts of the (n_out, n_in) resampling matrix, each with the index of its first row."""
    for first in range(0, n_out, _TILE):
        last = min(first + _TILE, n_out)
        start, stop = (torch.tensor([edge / n_out], dtype=torch.float64) for edge in (first, last))
        yield first, resampling_matrix(start, stop, n_in, last - first)[0].to(like)


def cells_near(first: int, last: int, step: float, base: int, n: int) -> tuple[slice, Tensor]:
    """Return the cells that the pixels `first` to `last` use, and their weights (pixels, cells).

    `step` is the number of cells per pixel, and the `n` cells begin with number `base`.
    """
    reach = max(1.0, step)
    start = min(n - 1, max(0, math.floor(first * step - reach) - base))
    stop = max(start + 1, min(n, math.ceil(last * step + reach) - base))
    left, right = (torch.tensor([(edge * step - base - start) / (stop - start)], dtype=torch.float64) for edge in (first, last))
    return slice(start, stop), resampling_matrix(left, right, stop - start, last - first)[0]
