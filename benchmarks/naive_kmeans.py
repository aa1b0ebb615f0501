"""K-means of the naive recipe: Lloyd's algorithm and running means, as matrix products.

Shapes: n points, feature dimension D, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 2**15  # number of points assigned at a time


def points(z: Tensor) -> Tensor:
    """(B * h * w, D) of features (B, D, h, w)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """(n,) index of the nearest centroid of each of `points` (n, D)."""
    offset = centroids.square().sum(1) / 2
    return torch.cat([(chunk @ centroids.T - offset).argmax(1) for chunk in points.split(_CHUNK)])


def means(points: Tensor, clusters: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """(K, D) means and (K,) sizes of the clusters of `points` (n, D); empty clusters take their
    row of `otherwise`.
    """
    k = len(otherwise)
    sums = torch.zeros_like(otherwise)
    for chunk, members in zip(points.split(_CHUNK), clusters.split(_CHUNK), strict=True):
        sums += F.one_hot(members, k).to(chunk).T @ chunk
    n = torch.bincount(clusters, minlength=k).to(points)
    return torch.where(n[:, None] > 0, sums / n.clamp(min=1)[:, None], otherwise), n


def lloyd(points: Tensor, k: int, steps: int) -> tuple[Tensor, Tensor]:
    """(K, D) centroids and (K,) sizes after `steps` Lloyd iterations, starting from K random
    `points` (n, D).
    """
    centroids = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:k].to(points.device)]
    counts = points.new_zeros(k)
    for _ in range(steps):
        centroids, counts = means(points, nearest(points, centroids), centroids)
    return centroids, counts
