"""K-means of feature maps in which neighbouring cells share their cluster.

A cell's probabilities, the softmax of its similarities to the centroids, are smoothed by a guided
filter whose guide is the picture. The cluster of a cell is that of its largest smoothed
probability, so cells of one surface take one cluster, and borders lie at the edges of the picture.

Shapes: B pictures, D feature dimension, K clusters, h w feature cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.guided_filter import guided_filter
from picie.clustering.kmeans import Metric, bias, cluster_sums, project
from picie.clustering.point_sample import points_of
from picie.runtime import distributed

Map = tuple[Tensor, Tensor]  # features (B, D, h, w), and the colours (B, 3, h, w) of their cells
_EPS = 1e-4  # variance of colours in [0, 1] below which cells count as one surface
_AT_ONCE = 2**21  # probabilities of the pictures that are filtered together; the filter needs 8 numbers for each


@dataclass(frozen=True)
class Smoothing:
    """How probabilities are smoothed.

    Attributes:
        radius: of the filter, relative to the short side of the map.
        temperature: of the softmax.
    """

    radius: float
    temperature: float

    def __call__(self, probabilities: Tensor, guide: Tensor) -> Tensor:
        """Filter `probabilities` (B, K, h, w); `guide` holds the colours (B, 3, h, w) of the cells."""
        radius = max(1, round(self.radius * min(guide.shape[2:])))
        return guided_filter(probabilities, guide, radius, _EPS)


def smoothed_assign(z: Tensor, guide: Tensor, centroids: Tensor, smoothing: Smoothing) -> tuple[Tensor, Tensor]:
    """Assign the cells of `z` to clusters by their smoothed probabilities.

    Args:
        z: (B, D, h, w) features of any norm and floating dtype; they count as points of norm 1.
        guide: (B, 3, h, w) float32 colours of the cells in [0, 1].
        centroids: (K, D) float32.
        smoothing: how to smooth.

    Returns:
        (B * h * w,) int64 clusters, and (B * h * w,) squared distances to their centroids.
    """
    return _assign(_unit(z), guide, centroids, smoothing)


def _unit(z: Tensor) -> Tensor:
    """Return the points (B * h * w, D) of features (B, D, h, w), float32, at norm 1."""
    return F.normalize(points_of(z).float(), dim=1)


def _assign(points: Tensor, guide: Tensor, centroids: Tensor, smoothing: Smoothing) -> tuple[Tensor, Tensor]:
    """As `smoothed_assign`, for `points` (B * h * w, D) of norm 1."""
    (h, w), k = guide.shape[2:], len(centroids)
    at_once = max(1, _AT_ONCE // (h * w * k))
    found = []
    for part, colours in zip(points.split(at_once * h * w), guide.split(at_once), strict=True):
        scores = part @ centroids.T + bias(centroids)
        probabilities = (scores / smoothing.temperature).softmax(1).view(-1, h, w, k).permute(0, 3, 1, 2)
        clusters = smoothing(probabilities.contiguous(), colours).argmax(1).flatten()
        found.append((clusters, (1 - 2 * scores.gather(1, clusters[:, None])[:, 0]).clamp_(min=0)))
    clusters, distances = (torch.cat(parts) for parts in zip(*found, strict=True))
    return clusters, distances


def smoothed_lloyd(
    maps: Sequence[Map], centroids: Tensor, steps: int, metric: Metric, smoothing: Smoothing, reseed: bool = True
) -> Tensor:
    """Run Lloyd's iterations with smoothed assignments from `centroids` (K, D).

    With several processes each passes its part of the maps, and all get the same result. Empty
    clusters are moved to the cells farthest from their centroids if `reseed`, otherwise they keep
    their position.

    Args:
        maps: features (B, D, h, w) of any norm, and the colours (B, 3, h, w) of their cells.
        centroids: (K, D) float32 initial centroids.
        steps: number of iterations.
        metric: "spherical" keeps centroids at norm 1.
        smoothing: how to smooth.
        reseed: whether to move empty clusters.

    Returns:
        (K, D) float32 centroids.
    """
    k, means = len(centroids), centroids.cpu().double()
    for _ in range(steps):
        current = project(means, metric).to(centroids)
        sums, counts = torch.zeros_like(means), means.new_zeros(k)
        for z, guide in maps:
            points = _unit(z)
            clusters, _ = _assign(points, guide, current, smoothing)
            batch_sums, batch_counts = cluster_sums(points, clusters, k)
            sums += batch_sums
            counts += batch_counts
        sums, counts = distributed.all_reduce_sum(sums), distributed.all_reduce_sum(counts)
        means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), means)
        empty = (counts == 0).nonzero()[:, 0]
        if reseed and 0 < len(empty) < k:
            farthest = _farthest(maps, current, len(empty), smoothing)
            means[empty[: len(farthest)]] = farthest
    return project(means, metric).to(centroids)


def _farthest(maps: Sequence[Map], centroids: Tensor, n: int, smoothing: Smoothing) -> Tensor:
    """Return the `n` cells farthest from their centroids, at norm 1, (n, D) float64 on the CPU."""
    found: list[tuple[float, list[float]]] = []
    for z, guide in maps:
        points = _unit(z)
        _, distances = _assign(points, guide, centroids, smoothing)
        values, indices = distances.topk(min(n, len(distances)))
        found = sorted([*found, *zip(values.tolist(), points[indices].tolist(), strict=True)], reverse=True)[:n]
    everyone = sorted((one for part in distributed.all_gather_object(found) for one in part), reverse=True)[:n]
    return torch.tensor([point for _, point in everyone], dtype=torch.float64)
