"""Logits of feature cells enlarged to pixels, in parts to limit the memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from picie.views.resampling import resampling_matrix

_CHUNK = 2**24  # logits enlarged at a time (64 MB), for pictures of any size
_TILE = 2**15  # rows of a resampling matrix: with 1024 cells it takes 128 MB


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
    result = torch.empty((len(logits), *size), dtype=values.dtype, device=logits.device)
    for rows, columns, part in enlarged(logits, size):
        # `max` takes a sixth of the time of `argmax`.
        result[:, rows, columns] = values[part.max(1).indices]
    return result


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
