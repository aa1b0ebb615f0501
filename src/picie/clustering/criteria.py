"""Criteria for the number of clusters, without labels: silhouette, Calinski-Harabasz, stability.

Shapes: n points, D feature dimension, K clusters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from picie.clustering.kmeans import assign, cluster_sums


def silhouette(points: Tensor, clusters: Tensor, k: int) -> float:
    """Return the mean silhouette of `points` in `clusters`, in [-1, 1] (Rousseeuw 1987).

    It uses the cosine distance. The silhouette of a point is (b - a) / max(a, b), where a is the
    mean distance to its own cluster and b that to the nearest other; it is 0 for the only point of
    a cluster. Memory is n x K, since the mean cosine distance to a cluster is that to its mean
    vector.

    Args:
        points: (n, D), of norm 1.
        clusters: (n,) int64.
        k: Number of clusters.
    """
    sums, counts = (part.to(points) for part in cluster_sums(points, clusters, k))
    # Summed distances to all points of each cluster; 0 to the point itself.
    totals = counts - points @ sums.T
    own_cluster = clusters[:, None]
    alone = counts[clusters] <= 1
    inside = totals.gather(1, own_cluster)[:, 0] / (counts[clusters] - 1).clamp(min=1)
    means = torch.where(counts > 0, totals / counts.clamp(min=1), torch.inf).scatter(1, own_cluster, torch.inf)
    outside = means.min(1).values
    values = (outside - inside) / torch.maximum(outside, inside).clamp(min=1e-12)
    return float(torch.where(alone | outside.isinf(), 0.0, values).mean())


def calinski_harabasz(points: Tensor, clusters: Tensor, k: int) -> float:
    """Return the Calinski-Harabasz index (1974): variance between clusters over that within them.

    Each is divided by its degrees of freedom. NaN for a single cluster.
    """
    sums, counts = cluster_sums(points, clusters, k)
    n_filled = int((counts > 0).sum())
    if n_filled < 2 or len(points) <= n_filled:
        return float("nan")
    mean = sums.sum(0) / len(points)
    means = sums / counts.clamp(min=1)[:, None]
    between = float((counts[:, None] * (means - mean).square()).sum())
    total = float((points.cpu().double() - mean).square().sum())
    return (between / (n_filled - 1)) / max((total - between) / (len(points) - n_filled), 1e-12)


def adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    """Return the adjusted Rand index of two clusterings (n,) of the same points.

    It is 1 if they are equal up to numbering, and 0 on average by chance (Hubert and Arabie 1985).

    >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2]))
    1.0
    """
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    together, rows, columns, every = (
        float((c * (c - 1) / 2).sum()) for c in (table, table.sum(1), table.sum(0), np.array([len(first)], dtype=float))
    )
    expected = rows * columns / max(every, 1.0)
    maximum = (rows + columns) / 2
    return 1.0 if maximum == expected else (together - expected) / (maximum - expected)


def stability(points: Tensor, groups: np.ndarray, fit: Callable[[Tensor, int], Tensor], repeats: int, seed: int) -> np.ndarray:
    """Measure stability: fit centroids to two halves of the groups and compare them on all points.

    Args:
        points: (n, D).
        groups: (n,) group of each point, e.g. its image. A group is never split, because its
            points are similar.
        fit: Returns (K, D) centroids for points and a number that differs in each call.
        repeats: How many times the groups are halved.
        seed: Seed of the halving.

    Returns:
        (repeats,) adjusted Rand indices.
    """
    rng, names = np.random.default_rng(seed), np.unique(groups)
    values = []
    for repeat in range(repeats):
        chosen = rng.permutation(names)[: len(names) // 2]
        half = torch.from_numpy(np.isin(groups, chosen)).to(points.device)
        fitted = (fit(part, 2 * repeat + i) for i, part in enumerate((points[half], points[~half])))
        values.append(adjusted_rand(*(assign(points, centroids)[0].cpu().numpy() for centroids in fitted)))
    return np.array(values)
