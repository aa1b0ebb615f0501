"""What k-means starts from: a bounded sample of the points of many batches of feature maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie import processes
from picie.config import Config
from picie.data.loading import split_batches
from picie.transfer import sent


def points_of(z: Tensor) -> Tensor:
    """(B * h * w, D) points of features `z` (B, D, h, w), a view of them if they are channels last."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def start_points(config: Config, images: int, cells: int) -> int:
    """How many points k-means starts from, given so many `images` of so many feature `cells`; K must not be more."""
    options = config.cluster
    batches = split_batches(np.arange(images), options.batch_size)[: options.init_batches]
    share = _share(options.init_points, len(batches)) if batches else 0
    return sum(min(share, len(batch) * cells) for batch in batches)


def _share(size: int, n_batches: int) -> int:
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
        self._most = _share(size, n_batches)
        self._generator = torch.Generator().manual_seed(seed)
        self._parts: list[Tensor] = []
        self._seen = 0

    def add(self, points: Tensor) -> None:
        """Take a share of a batch's `points` (n, D), floating point, of any norm; of several processes each brings its part,
        maybe none.
        """
        sizes = processes.gathered(len(points))
        before, n = sum(sizes[: processes.rank()]), sum(sizes)
        picked = torch.arange(n) if n <= self._most else torch.randperm(n, generator=self._generator)[: self._most]
        own = ((picked >= before) & (picked < before + len(points))).nonzero()[:, 0]
        found = F.normalize(points[sent(picked[own] - before, points.device)].float(), dim=1)
        if len(own) < len(picked):  # zeros where points of other processes stand
            found = found.new_zeros(len(picked), points.shape[1]).index_copy_(0, sent(own, points.device), found)
        self._parts.append(found)
        self._seen += n

    def take(self) -> tuple[Tensor, float]:
        """The sample (n, D) float32, and the number of points that each of its points stands for."""
        sample = processes.total(torch.cat(self._parts))
        self._parts = []
        return sample, self._seen / len(sample)
