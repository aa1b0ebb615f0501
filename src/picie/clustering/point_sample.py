"""A bounded sample of the points of many batches of feature maps, from which k-means starts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.runtime import distributed
from picie.runtime.device import to_device


def points_of(z: Tensor) -> Tensor:
    """Return the points (B * h * w, D) of features `z` (B, D, h, w).

    The result is a view if the features are channels_last.
    """
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def points_per_batch(size: int, n_batches: int) -> int:
    """Return how many points a sample of `size` takes from each of `n_batches` batches."""
    return -(-size // n_batches)


class PointSample:
    """A bounded sample of points, normalised to norm 1, with an equal random share of each batch.

    With several processes each adds its part of a batch. The chosen points and their order are
    those of one process.

    Args:
        size: Maximum number of points, shared by the batches.
        n_batches: Number of batches that will be added.
        seed: Seed of the choice.
    """

    def __init__(self, size: int, n_batches: int, seed: int) -> None:
        self._per_batch = points_per_batch(size, n_batches)
        self._generator = torch.Generator().manual_seed(seed)
        self._parts: list[Tensor] = []
        self._seen = 0

    def add(self, points: Tensor) -> None:
        """Add a share of a batch's `points` (n, D), floating point, of any norm.

        With several processes each passes its part of the batch, which may be empty.
        """
        sizes = distributed.all_gather_object(len(points))
        before, n = sum(sizes[: distributed.rank()]), sum(sizes)
        picked = torch.arange(n) if n <= self._per_batch else torch.randperm(n, generator=self._generator)[: self._per_batch]
        local = ((picked >= before) & (picked < before + len(points))).nonzero()[:, 0]
        sample = F.normalize(points[to_device(picked[local] - before, points.device)].float(), dim=1)
        if len(local) < len(picked):  # zeros in place of the points of other processes
            sample = sample.new_zeros(len(picked), points.shape[1]).index_copy_(0, to_device(local, points.device), sample)
        self._parts.append(sample)
        self._seen += n

    def take(self) -> tuple[Tensor, float]:
        """Return the sample (n, D) float32, and how many points each of its points represents."""
        sample = distributed.all_reduce_sum(torch.cat(self._parts))
        self._parts = []
        return sample, self._seen / len(sample)
