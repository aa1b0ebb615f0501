"""Groups from groups: parts of a cluster, several clusters as one, a tree of points. It knows nothing of images or runs.

Shapes: D feature dimension, K clusters, V groups of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.kmeans import Metric, bias, project

_INNER = 2.0**-8  # differences between the parts of a cluster, relative to those between clusters
_FINEST = 1e-6  # the same, relative to the weights; float32 resolves 1e-7
_TREE = 2000  # points of a tree; its cost is their square


def split_clusters(
    weight: Tensor, offset: Tensor, centroids: Tensor, clusters: Sequence[int], parts: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Split `clusters` of a linear classifier into parts, so that the cells of all others stay where they are.

    Part i of cluster w gets the weight w + s (mu_i - mean mu), with s so small that the parts together win where w did
    (all but 1/256 of the way to the nearest other cluster); among them the nearest mu_i wins, whatever s is.

    Args:
        weight: (K, D) of the classifier.
        offset: (K,) of the classifier.
        centroids: (K, D).
        clusters: those to split.
        parts: (n, D) mu, the centroids of the parts, the same for each of `clusters`.

    Returns:
        weight, offset and centroids of K + len(clusters) (n - 1) clusters: the first part of each in its place, the others in
        the end; and the part of each of `clusters`, then of each new one.

    Raises:
        ValueError: the parts would differ by less than float32 resolves.
    """
    inner, by = parts - parts.mean(0), bias(parts) - bias(parts).mean()
    spread = float(inner.norm(dim=1).max())
    weights, offsets, middles = list(weight), list(offset), list(centroids)
    added: list[int] = []
    for cluster in clusters:
        apart = (weight - weight[cluster]).norm(dim=1)
        apart[cluster] = torch.inf
        scale = _INNER * float(apart.min()) / max(spread, 1e-12)
        if scale * spread < _FINEST * float(weight[cluster].norm()):
            raise ValueError("the parts of this cluster would be too close for float32")
        rows, places = weight[cluster] + scale * inner, offset[cluster] + scale * by
        weights[cluster], offsets[cluster], middles[cluster] = rows[0], places[0], parts[0]
        weights += list(rows[1:])
        offsets += list(places[1:])
        middles += list(parts[1:])
        added += range(1, len(parts))
    return torch.stack(weights), torch.stack(offsets), torch.stack(middles), [0] * len(clusters) + added


def mean_centroids(centroids: Tensor, assignment: Sequence[int], v: int, metric: Metric) -> Tensor:
    """(V, D) mean, as the metric wants it, of the `centroids` (K, D) of each of `v` groups; 0 where there is none.

    `assignment` (K,) says which group each is in.
    """
    member = F.one_hot(torch.tensor(assignment, device=centroids.device), v).to(centroids)
    return project(member.T @ centroids / member.sum(0).clamp(min=1)[:, None], metric)


def agglomerate(centroids: Tensor, n: int) -> np.ndarray:
    """(V,) groups 0..n-1 of `centroids` (V, D): average linkage (UPGMA) on their squared distances.

    For unit norms these are twice the cosine distances, so groups are joined by the mean similarity of their members.
    """
    points = centroids.double()
    squared = torch.cdist(points, points).square().numpy()
    tree = linkage(squared[np.triu_indices(len(points), 1)], "average")
    groups: np.ndarray = cut_tree(tree, n)[:, 0]
    return groups


class WardTree:
    """A Ward tree of a part of the points, which gives k-means a start for any K.

    Where groups stand apart, k-means++ alone too often gives two centroids to one and none to another: of 9 mixtures of 12
    groups `suggest-k` named that number for 4 with the best of 4 starts, for 7 with that of 16, for all with the tree's.

    Args:
        points: (n, D).
        seed: of the part, at most 2000 points.
    """

    def __init__(self, points: Tensor, seed: int) -> None:
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:_TREE]
        self._points = points[chosen.to(points.device)]
        self._tree = linkage(self._points.cpu().double().numpy(), "ward")

    def starts(self, k: int) -> list[Tensor]:
        """One start, the (k, D) means of the tree's `k` groups; none where `k` is more than its points."""
        if k > len(self._points):
            return []
        groups = cut_tree(self._tree, k)[:, 0].tolist()
        return [mean_centroids(self._points, groups, k, "euclidean")]
