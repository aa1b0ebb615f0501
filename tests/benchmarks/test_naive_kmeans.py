"""The naive recipe's k-means, against brute force and by hand."""

from __future__ import annotations

import torch

from benchmarks.naive_kmeans import lloyd, means, nearest


def test_the_nearest_is_that_of_brute_force() -> None:
    torch.manual_seed(0)
    points, centroids = torch.randn(500, 7), torch.randn(5, 7)
    assert torch.equal(nearest(points, centroids), torch.cdist(points, centroids).argmin(1))


def test_means_by_hand() -> None:
    points = torch.tensor([[0.0, 2.0], [2.0, 2.0], [5.0, 5.0]])
    found, n = means(points, torch.tensor([0, 0, 2]), torch.full((3, 2), 9.0))
    assert found.tolist() == [[1, 2], [9, 9], [5, 5]]
    assert n.tolist() == [2, 0, 1]


def test_lloyd_finds_two_heaps() -> None:
    torch.manual_seed(0)
    heaps = torch.cat([torch.randn(40, 3) * 0.1, torch.randn(60, 3) * 0.1 + 5])
    centroids, n = lloyd(heaps, 2, 20)
    assert sorted(n.tolist()) == [40, 60]
    assert torch.allclose(centroids.sum(1).sort().values, torch.tensor([0.0, 15.0]), atol=0.2)
