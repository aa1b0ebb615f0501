"""Statistics of an assignment of points to clusters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from picie.clustering.kmeans import cluster_counts
from picie.runtime import distributed

_UNREAD = 64  # batches counted on the device before it is synchronised


class ClusterStats:
    """Statistics of an assignment, accumulated over batches.

    Args:
        k: Number of clusters.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        # On the device; not synchronised until they are read.
        self._added: list[tuple[Tensor, Tensor]] = []
        self._counts, self._distance = torch.zeros(k, dtype=torch.long), 0.0

    def add(self, clusters: Tensor, distances: Tensor) -> None:
        """Add `clusters` (n,) int64 and squared `distances` (n,), as returned by `assign`."""
        self._added.append((cluster_counts(clusters, self._k), distances.sum()))
        if len(self._added) == _UNREAD:
            self._read()

    def _read(self) -> None:
        for counts, distance in self._added:
            self._counts += counts.cpu()
            self._distance += float(distance)
        self._added.clear()

    def add_others(self) -> None:
        """Add the statistics of the other processes of a run."""
        self._read()
        self._counts = distributed.all_reduce_sum(self._counts)
        self._distance = math.fsum(distributed.all_gather_object(self._distance))

    @property
    def counts(self) -> Tensor:
        """(K,) int64, the number of points in each cluster."""
        self._read()
        return self._counts

    @property
    def inertia(self) -> float:
        """The mean squared distance of a point to its centroid."""
        n = int(self.counts.sum())
        return self._distance / max(n, 1)

    @property
    def imbalance(self) -> float:
        """K times the sum of squared cluster shares.

        It is 1 for equal clusters and K if one cluster holds all points.
        """
        shares = self.counts.double() / max(int(self.counts.sum()), 1)
        return float(len(shares) * shares.square().sum())

    @property
    def empty(self) -> int:
        """The number of clusters without a point."""
        return int((self.counts == 0).sum())
