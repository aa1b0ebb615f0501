"""How well a number of clusters suits points, without labels: silhouette, Calinski-Harabasz, stability.

Shapes: n points, D feature dimension, K clusters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from picie.clustering.kmeans import assign, cluster_sums


def silhouette(points: Tensor, clusters: Tensor, k: int) -> float:
    """Mean silhouette (Rousseeuw 1987) by cosine distance of unit-norm `points` (n, D) in `clusters` (n,): in [-1, 1].

    (b - a) / max(a, b) of each point, a its mean distance to its own cluster and b to the nearest other; 0 where it is alone.
    It takes n x K memory, since mean cosine distances to a cluster are those to its mean vector.
    """
    sums, counts = (part.to(points) for part in cluster_sums(points, clusters, k))
    totals = counts - points @ sums.T  # of the distances to all points of each cluster; 0 to itself
    own = clusters[:, None]
    alone = counts[clusters] <= 1
    inside = totals.gather(1, own)[:, 0] / (counts[clusters] - 1).clamp(min=1)
    means = torch.where(counts > 0, totals / counts.clamp(min=1), torch.inf).scatter(1, own, torch.inf)
    outside = means.min(1).values
    values = (outside - inside) / torch.maximum(outside, inside).clamp(min=1e-12)
    return float(torch.where(alone | outside.isinf(), 0.0, values).mean())


def calinski_harabasz(points: Tensor, clusters: Tensor, k: int) -> float:
    """Variance between clusters over that within, each by its degrees of freedom (Calinski and Harabasz 1974); NaN for one."""
    sums, counts = cluster_sums(points, clusters, k)
    filled = int((counts > 0).sum())
    if filled < 2 or len(points) <= filled:
        return float("nan")
    mean = sums.sum(0) / len(points)
    means = sums / counts.clamp(min=1)[:, None]
    between = float((counts[:, None] * (means - mean).square()).sum())
    total = float((points.cpu().double() - mean).square().sum())
    return (between / (filled - 1)) / max((total - between) / (len(points) - filled), 1e-12)


def adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement of two clusterings (n,) of the same points, whatever their numbers: 1 if equal, 0 on average by chance.

    Hubert and Arabie 1985.

    >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2]))
    1.0
    """
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    together, rows, columns, every = (
        float((c * (c - 1) / 2).sum()) for c in (table, table.sum(1), table.sum(0), np.array([len(first)], dtype=float))
    )
    expected = rows * columns / max(every, 1.0)
    most = (rows + columns) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def stability(points: Tensor, groups: np.ndarray, fit: Callable[[Tensor, int], Tensor], repeats: int, seed: int) -> np.ndarray:
    """(repeats,) agreement, by `adjusted_rand` on all points, of centroids fitted to two halves of the groups.

    Args:
        points: (n, D).
        groups: (n,) what each point belongs to, e.g. its image; a group is in one half, for its points are alike.
        fit: makes (K, D) centroids of points and a number that is another one each time.
        repeats: how many times the groups are halved.
        seed: of the halving.
    """
    rng, names = np.random.default_rng(seed), np.unique(groups)
    values = []
    for repeat in range(repeats):
        chosen = rng.permutation(names)[: len(names) // 2]
        half = torch.from_numpy(np.isin(groups, chosen)).to(points.device)
        fitted = (fit(part, 2 * repeat + i) for i, part in enumerate((points[half], points[~half])))
        values.append(adjusted_rand(*(assign(points, centroids)[0].cpu().numpy() for centroids in fitted)))
    return np.array(values)
