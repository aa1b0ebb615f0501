"""Parts of clusters, and clusters joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.kmeans import bias, nearest
from picie.clustering.regrouping import WardTree, agglomerate, mean_centroids, split_clusters


def unit(n: int, dim: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def classify(points: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    return (points @ weight.T + offset).argmax(1)


@pytest.mark.parametrize("kind", ["centroids", "trained"])
@pytest.mark.parametrize("clusters", [[2], [1, 4]])
def test_a_split_moves_no_cell_of_others_and_gives_each_part_its_nearest(kind: str, clusters: list[int]) -> None:
    points, weight, parts = unit(20000, 8, 0), unit(5, 8, 1), unit(3, 8, 2)
    offset = torch.zeros(5)
    if kind == "trained":  # weights of any size, as of a linear classifier
        weight, offset = 7 * weight + 1, torch.linspace(-1, 1, 5)
    before = classify(points, weight, offset)
    new_weight, new_offset, centroids, part_of = split_clusters(weight, offset, weight, clusters, parts)
    after = classify(points, new_weight, new_offset)
    assert len(new_weight) == len(new_offset) == len(centroids) == 5 + 2 * len(clusters)
    own, owner = torch.isin(before, torch.tensor(clusters)), [*clusters, *range(5, len(new_weight))]
    assert own.sum() > 1000
    assert (torch.isin(after, torch.tensor(owner)) == own).float().mean() > 0.995
    same = own & torch.isin(after, torch.tensor(owner))
    lookup = torch.full((len(new_weight),), -1)
    lookup[torch.tensor(owner)] = torch.tensor(part_of)
    assert (lookup[after[same]] == nearest(points[same], parts)[0]).float().mean() > 0.999
    others = ~own & ~torch.isin(after, torch.tensor(owner))
    assert torch.equal(after[others], before[others])


def test_a_part_can_be_split_again_until_float32_ends() -> None:
    points, weight, offset, centroids = unit(20000, 8, 0), unit(4, 8, 1), torch.zeros(4), unit(4, 8, 1)
    first = classify(points, weight, offset)
    weight, offset, centroids, _ = split_clusters(weight, offset, centroids, [0], unit(2, 8, 2))
    weight, offset, centroids, _ = split_clusters(weight, offset, centroids, [4], unit(2, 8, 3))
    after = classify(points, weight, offset)
    assert set(after[first == 0].tolist()) == {0, 4, 5}
    inner = nearest(points, unit(2, 8, 2))[0] == 1
    deepest = nearest(points, unit(2, 8, 3))[0]
    asked = (first == 0) & inner & torch.isin(after, torch.tensor([4, 5]))
    assert ((after[asked] - 4) == deepest[asked]).float().mean() > 0.99
    with pytest.raises(ValueError, match="float32"):
        split_clusters(weight, offset, centroids, [5], unit(2, 8, 4))


def test_euclidean_parts_are_told_apart_by_distance_too() -> None:
    points, weight = unit(5000, 8, 0), 0.7 * unit(3, 8, 1)
    parts = torch.tensor([[0.9], [0.2]]) * unit(1, 8, 2)  # the same direction, at two distances
    new_weight, new_offset, _, _ = split_clusters(weight, bias(weight), weight, [1], parts)
    after, own = classify(points, new_weight, new_offset), nearest(points, weight)[0] == 1
    same = own & ((after == 1) | (after == 3))
    assert ((after[same] == 3) == (nearest(points[same], parts)[0] == 1)).all()


@pytest.mark.parametrize("n", [2, 5, 11])
def test_agglomeration_is_average_linkage(n: int) -> None:
    centroids = unit(12, 6, 3)
    distance = (1 - centroids.double() @ centroids.double().T).numpy()
    expected = AgglomerativeClustering(n, metric="precomputed", linkage="average").fit_predict(distance)
    got = agglomerate(centroids, n)
    assert set(got.tolist()) == set(range(n))
    assert adjusted_rand_score(expected, got) == 1


def test_a_group_of_equal_centroids_is_cut_into_exactly_n() -> None:
    assert len(np.unique(agglomerate(torch.ones(6, 3), 4))) == 4


def test_mean_centroids_by_hand() -> None:
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    got = mean_centroids(centroids, [0, 0, 2], 4, "euclidean")
    assert got.tolist() == [[0.5, 0.5], [0, 0], [-1, 0], [0, 0]]
    assert torch.allclose(mean_centroids(centroids, [0, 0, 2], 4, "spherical")[0], torch.tensor([0.5**0.5, 0.5**0.5]))


def test_a_ward_tree_starts_at_the_groups_that_are_there() -> None:
    middles = unit(6, 8, 5)
    owner = torch.arange(600) % 6
    points = middles[owner] + 0.01 * torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    tree = WardTree(points, 0)
    (start,) = tree.starts(6)
    assert sorted(nearest(middles, start)[0].tolist()) == list(range(6))
    assert torch.cdist(middles, start).min(1).values.max() < 0.02
    assert tree.starts(601) == []
