"""What k-means starts from: a bounded sample of the points of many batches of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.runtime import distributed
from picie.runtime.device import to_device


def points_of(z: Tensor) -> Tensor:
    """(B * h * w, D) points of features `z` (B, D, h, w), a view of them if they are channels last."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def points_per_batch(size: int, n_batches: int) -> int:
    """How many points a sample of `size` takes from each of `n_batches` batches."""
    return -(-size // n_batches)


class PointSample:
    """A bounded sample of points, at norm 1: an equal, random share of each batch.

    Of several processes each adds its part of a batch. The points are picked, and stand, as if one had it all.

    Args:
        size: most points, to be shared by the batches.
        n_batches: how many batches will be added.
        seed: of the choice.
    """

    def __init__(self, size: int, n_batches: int, seed: int) -> None:
        self._most = points_per_batch(size, n_batches)
        self._generator = torch.Generator().manual_seed(seed)
        self._parts: list[Tensor] = []
        self._seen = 0

    def add(self, points: Tensor) -> None:
        """Take a share of a batch's `points` (n, D), floating point, of any norm; of several processes each brings its part,
        maybe none.
        """
        sizes = distributed.all_gather_object(len(points))
        before, n = sum(sizes[: distributed.rank()]), sum(sizes)
        picked = torch.arange(n) if n <= self._most else torch.randperm(n, generator=self._generator)[: self._most]
        own = ((picked >= before) & (picked < before + len(points))).nonzero()[:, 0]
        found = F.normalize(points[to_device(picked[own] - before, points.device)].float(), dim=1)
        if len(own) < len(picked):  # zeros where points of other processes stand
            found = found.new_zeros(len(picked), points.shape[1]).index_copy_(0, to_device(own, points.device), found)
        self._parts.append(found)
        self._seen += n

    def take(self) -> tuple[Tensor, float]:
        """The sample (n, D) float32, and the number of points that each of its points stands for."""
        sample = distributed.all_reduce_sum(torch.cat(self._parts))
        self._parts = []
        return sample, self._seen / len(sample)
