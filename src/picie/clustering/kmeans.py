"""K-means over points that do not fit into memory.

It runs k-means++ and Lloyd on a bounded sample, then updates running means.

The module is independent of images: its inputs are points (n, D); its results are centroids,
inertia, imbalance and empty clusters. Work that grows with n runs on the points' device. The K x D
sums are kept in float64 on the CPU and random numbers come from a seeded generator there, so
devices agree (including Apple's, which has no float64). Processes of one run get the same result:
the main process finds the start, from a sample that all have, and the sums of each batch are added
over all processes.

Shapes: n points, D feature dimension, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.runtime import distributed

Metric = Literal["spherical", "euclidean"]
# Size of a trial in points, or points per cluster if that is more; enough to rank starts.
_TRIAL, _TRIAL_STEPS = (2**12, 2**5), 10
_SUBSAMPLE = (2**14, 2**6)  # likewise; enough for the first Lloyd iterations
# Columns of products: 16 take a third of the time of 11 (2 cores, AVX512; one core: half).
_WIDTH = 16


def _chunks(points: Tensor, k: int) -> tuple[Tensor, ...]:
    """Split `points` into chunks that fit the cache of a CPU, or fill another device.

    On a CPU their temporaries take 4 MB at D = 128. They stay bounded (2^24 scores) for any number
    of clusters `k`.
    """
    limit = 2**13 if points.device.type == "cpu" else 2**18
    chunks: tuple[Tensor, ...] = points.split(max(1, min(limit, 2**24 // k)))
    return chunks


def bias(centroids: Tensor) -> Tensor:
    """Return (..., K) biases b of `centroids` (..., K, D).

    They satisfy argmax <z, c> + b = argmin |z - c|^2, and are equal if all norms are.
    """
    return -0.5 * centroids.square().sum(-1)


def pad_clusters(centroids: Tensor) -> Tensor:
    """Pad `centroids` (K, D) with zero rows to a multiple of 16, which makes products faster."""
    return F.pad(centroids, (0, 0, 0, -len(centroids) % _WIDTH))


def nearest(points: Tensor, centroids: Tensor, unit: bool = False) -> tuple[Tensor, Tensor]:
    """Find the nearest of `centroids` (K, D) for each of `points` (n, D), by squared distance.

    Both have the same dtype. With `unit`, points may have any floating dtype and are normalised to
    norm 1.

    Returns:
        (n,) int64 clusters and (n,) scores max_k <z, c_k> - |c_k|^2 / 2, of the dtype of
        `centroids`, from which `distances` computes squared distances.
    """
    k, wide, offset = len(centroids), pad_clusters(centroids), bias(centroids)
    scores = centroids.new_empty(len(points))
    clusters = torch.empty(len(points), dtype=torch.long, device=points.device)
    position = 0
    for chunk in _chunks(points, len(wide)):
        part = slice(position, position + len(chunk))
        if unit:  # normalise products, not points: twice as fast, and without a copy of the points
            directions = chunk.to(centroids.dtype)
            norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_(min=1e-12)
            each = (directions @ wide.T)[:, :k].div_(norms).add_(offset)
        else:
            each = (chunk @ wide.T)[:, :k].add_(offset)
        torch.max(each, 1, out=(scores[part], clusters[part]))
        position = part.stop
    return clusters, scores


def distances(points: Tensor, scores: Tensor) -> Tensor:
    """Return (n,) squared distances of `points` (n, D) to their nearest centroids.

    Args:
        points: (n, D).
        scores: (n,), as returned by `nearest`.
    """
    norms: Tensor = torch.linalg.vector_norm(points, dim=1)
    return (norms.square_() - 2 * scores).clamp_(min=0)


def assign(points: Tensor, centroids: Tensor, unit: bool = False) -> tuple[Tensor, Tensor]:
    """Assign `points` (n, D) to the nearest of `centroids` (K, D).

    With `unit` a zero point, which has no direction, counts as a point of norm 1 orthogonal to all
    centroids.

    Returns:
        (n,) int64 clusters and (n,) squared distances.
    """
    clusters, scores = nearest(points, centroids, unit)
    return clusters, (1 - 2 * scores).clamp_(min=0) if unit else distances(points, scores)


def plus_plus(points: Tensor, k: int, generator: torch.Generator, starts: int = 1) -> Tensor:
    """Choose K of `points` (n, D) by k-means++ (Arthur and Vassilvitskii 2007).

    Each centroid is drawn with probability proportional to its squared distance from those before.
    Several starts are computed together; each uses the numbers that it would draw after the one
    before it.

    Returns:
        (starts, K, D) centroids.
    """
    n, norms = len(points), points.square().sum(1)
    dtypes = [torch.float32] + [torch.float64] * (k - 1)
    draws = [[float(torch.rand((), generator=generator, dtype=dtype)) for dtype in dtypes] for _ in range(starts)]
    uniform = torch.tensor(draws, dtype=torch.float64)
    chosen = points.new_empty(starts, k, points.shape[1])
    chosen[:, 0] = points[(uniform[:, 0] * n).long().to(points.device)]
    least = points.new_full((starts, n), torch.inf)
    for i in range(1, k):
        latest = chosen[:, i - 1]
        away = torch.addmm(norms, latest, points.T, alpha=-2).add_(latest.square().sum(1, keepdim=True)).clamp_(min=0)
        torch.minimum(least, away, out=least)
        cumulative = least.cpu().cumsum(1, dtype=torch.float64)
        total = cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, uniform[:, i : i + 1] * total)
        # If all points coincide with chosen ones, any point is equally good.
        index = torch.where(total > 0, drawn, (uniform[:, i : i + 1] * n).long())[:, 0].clamp_(max=n - 1)
        chosen[:, i] = points[index.to(points.device)]
    return chosen


def lloyd(points: Tensor, centroids: Tensor, steps: int, metric: Metric, reseed: bool = True) -> tuple[Tensor, Tensor]:
    """Run Lloyd's iterations on `points` (n, D) from `centroids` (K, D).

    They end at convergence or after `steps` iterations. Empty clusters are moved to the points
    farthest from their centroids if `reseed`, otherwise they keep their position.

    Returns:
        (K, D) float64 means, on the CPU, of the clusters of the last assignment, and (K,) float64
        counts. The centroids are the projection of the means, `project(means, metric)`.
    """
    previous: Tensor | None = None
    means, counts = centroids.cpu().double(), torch.zeros(len(centroids), dtype=torch.float64)
    for _ in range(steps):
        clusters, scores = nearest(points, project(means, metric).to(points))
        if previous is not None and torch.equal(clusters, previous):
            break
        sums, counts = cluster_sums(points, clusters, len(centroids))
        means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), means)
        empty = (counts == 0).nonzero()[:, 0]
        previous = clusters
        if reseed and len(empty) and len(points) > len(centroids):
            farthest = distances(points, scores).topk(len(empty)).indices
            means[empty] = points[farthest].cpu().double()
            previous = None
    return means, counts


def cluster_sums(points: Tensor, clusters: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sum and count `points` (n, D) by `clusters` (n,).

    On a GPU the order of scattered additions varies, so the sum is a product with the 0/1
    membership matrix. On a CPU their order is fixed, and they take 0.3 ms where the product takes
    1.6 (2^14 points, K = 11, D = 128) or 33 (K = 512).

    Returns:
        (K, D) float64 sums and (K,) float64 counts, on the CPU.
    """
    # MPS has no float64.
    device = points.device if points.device.type == "cuda" else torch.device("cpu")
    sums = torch.zeros(k, points.shape[1], dtype=torch.float64, device=device)
    for chunk, members in zip(_chunks(points, k), _chunks(clusters, k), strict=True):
        if chunk.device.type == "cpu":
            sums += chunk.new_zeros(k, chunk.shape[1]).index_add_(0, members, chunk).double()
        else:
            sums += (F.one_hot(members, k).to(chunk.dtype).T @ chunk).to(device).double()
    return sums.cpu(), cluster_counts(clusters, k).cpu().double()


def cluster_counts(clusters: Tensor, k: int) -> Tensor:
    """Count the points of each of `k` clusters.

    Returns:
        (K,) int64 on the device of `clusters`; a GPU is not synchronised.
    """
    if clusters.device.type == "cpu":
        return torch.bincount(clusters, minlength=k)
    return clusters.new_zeros(k).scatter_add_(0, clusters, torch.ones_like(clusters))


def project(centroids: Tensor, metric: Metric) -> Tensor:
    """Normalise `centroids` (..., K, D) to norm 1 if the metric is spherical."""
    return F.normalize(centroids, dim=-1) if metric == "spherical" else centroids


class KMeans:
    """Streaming k-means (paper, section 3.1).

    Call `start` with one sample, then `update` with every later batch, then read `centroids`. A
    batch moves centroid k by a running mean, c_k <- (1 - eta) c_k + eta mean_k with eta = n_k /
    count_k.

    Args:
        k: Number of clusters.
        metric: "spherical" keeps centroids at norm 1 (for points of norm 1 the nearest is then the
            most similar), "euclidean" keeps them at the mean.
        steps: Maximum number of Lloyd iterations of the start. If the sample is large, they run on
            a part of it, followed by a tenth of them on the whole sample.
        reseed: Move empty clusters to the points farthest from their centroids.
        seed: Seed of the k-means++ starts.
        restarts: Number of k-means++ starts, from which the one with the lowest inertia after a
            short trial on a part of the sample is chosen.
    """

    def __init__(
        self,
        k: int,
        metric: Metric = "spherical",
        steps: int = 20,
        reseed: bool = True,
        seed: int = 0,
        restarts: int = 1,
    ) -> None:
        self.k, self.metric, self.steps, self.reseed, self.seed, self.restarts = k, metric, steps, reseed, seed, restarts
        self.centroids = torch.empty(0)
        self.counts = torch.empty(0)
        self._means = torch.empty(0)  # float64 running means; `centroids` is their projection

    def start(self, sample: Tensor, centroids: Tensor | None = None, weight: float = 1.0) -> None:
        """Find the initial centroids by Lloyd's iterations on `sample` (n, D).

        Args:
            sample: Points, n >= K.
            centroids: (K, D) initial centroids; by default those of `best_start`.
            weight: Number of points that each point of the sample represents; it scales the counts
                of the running mean.

        Raises:
            ValueError: There are fewer points than clusters.
        """
        if len(sample) < self.k:
            raise ValueError(f"{self.k} clusters cannot be made of {len(sample)} points")
        if centroids is None:
            centroids = self.best_start(sample)
        first = centroids
        self._means, counts = distributed.run_on_main(lambda: self._refine(sample, first))
        self.centroids = project(self._means, self.metric).to(sample)
        self.counts = counts * weight

    def _refine(self, sample: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Run `lloyd` from `centroids`, first on a part of a large sample."""
        part, steps = self._subsample(sample, *_SUBSAMPLE), self.steps
        # Run most iterations on a part of the points (docs/research/log.md).
        if len(part) < len(sample):
            means, _ = lloyd(part, centroids, steps, self.metric, self.reseed)
            centroids, steps = project(means, self.metric).to(sample), max(1, steps // 10)
        return lloyd(sample, centroids, steps, self.metric, self.reseed)

    def best_start(self, sample: Tensor, others: Sequence[Tensor] = ()) -> Tensor:
        """Return the (K, D) start with the lowest inertia in a trial on `sample` (n, D).

        The candidates are the k-means++ starts and `others`.
        """
        return distributed.run_on_main(lambda: self._best_start(sample, others).cpu()).to(sample.device)

    def _best_start(self, sample: Tensor, others: Sequence[Tensor]) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        trial = self._subsample(sample, *_TRIAL)
        starts: list[Tensor] = [*project(plus_plus(trial, self.k, generator, self.restarts), self.metric), *others]
        if len(starts) == 1:
            return starts[0]
        trials = [lloyd(trial, start, _TRIAL_STEPS, self.metric, self.reseed)[0] for start in starts]
        tried = [project(means, self.metric).to(sample) for means in trials]
        # Higher scores mean smaller distances.
        scores = [float(nearest(trial, centroids)[1].mean()) for centroids in tried]
        return tried[scores.index(max(scores))]

    def _subsample(self, sample: Tensor, points: int, points_per_cluster: int) -> Tensor:
        """Return every n-th point of `sample`, in total about `points`.

        It is about `points_per_cluster` for each cluster if that is more.
        """
        step = max(1, len(sample) // max(points, points_per_cluster * self.k))
        # The step is odd, because points may be rows of maps of even width.
        return sample[:: step - 1 + step % 2].contiguous()

    def update(self, points: Tensor) -> None:
        """Move the centroids by the running mean of one batch of `points` (n, D).

        With several processes each passes its part of the batch.
        """
        clusters, _ = nearest(points, self.centroids)
        sums, counts = map(distributed.all_reduce_sum, cluster_sums(points, clusters, self.k))
        self.counts += counts
        hit = counts > 0
        eta = (counts / self.counts.clamp(min=1))[hit, None]
        self._means[hit] += eta * (sums[hit] / counts[hit, None] - self._means[hit])
        self.centroids = project(self._means, self.metric).to(points)
