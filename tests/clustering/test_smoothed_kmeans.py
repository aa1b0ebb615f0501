"""K-means with smoothed assignments, on pictures whose surfaces are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering import smoothed_kmeans as module
from picie.clustering.guided_filter import guided_filter
from picie.clustering.kmeans import Metric, assign, bias, lloyd, project
from picie.clustering.smoothed_kmeans import Smoothing, smoothed_assign, smoothed_lloyd

SMOOTHING = Smoothing(0.125, 0.3)


def scene(noise: float, side: int = 24, n: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, 6, side, side), colours and true clusters of pictures of two halves."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(n, side, side, dtype=torch.long)
    for i in range(n):
        truth[i, :, side // 3 + 2 * i :] = 1
    guide = truth[:, None].float().expand(-1, 3, -1, -1) * 0.5 + 0.05 * torch.rand(n, 3, side, side, generator=generator)
    directions = F.normalize(torch.randn(2, 6, generator=generator), dim=1)
    z = directions[truth].permute(0, 3, 1, 2) + noise * torch.randn(n, 6, side, side, generator=generator)
    return z, guide, truth


def test_cells_of_one_surface_share_their_cluster() -> None:
    z, guide, truth = scene(noise=0.5)
    centroids = torch.stack([F.normalize(z, dim=1).permute(0, 2, 3, 1)[truth == k].mean(0) for k in (0, 1)])
    clusters, distances = smoothed_assign(z, guide, F.normalize(centroids, dim=1), SMOOTHING)
    one_by_one, _ = assign(F.normalize(z, dim=1).permute(0, 2, 3, 1).flatten(0, 2), F.normalize(centroids, dim=1))
    assert float((clusters == truth.flatten()).float().mean()) > 0.995
    assert float((one_by_one == truth.flatten()).float().mean()) < 0.95
    points = F.normalize(z, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    expected = (points - F.normalize(centroids, dim=1)[clusters]).square().sum(1)
    torch.testing.assert_close(distances, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("at_once", [1, 2**21])
def test_the_cluster_is_that_of_the_largest_filtered_probability(
    unit: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)  # one picture at a time, or all
    z, guide, _ = scene(noise=0.8)
    centroids = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    centroids = F.normalize(centroids, dim=1) if unit else centroids
    logits = torch.einsum("bdhw,kd->bkhw", F.normalize(z, dim=1), centroids) + bias(centroids)[:, None, None]
    expected = guided_filter((logits / 0.3).softmax(1), guide, 3, 1e-4).argmax(1)
    clusters, _ = smoothed_assign(7 * z, guide, centroids, SMOOTHING)  # the norm of features plays no part
    assert float((clusters == expected.flatten()).float().mean()) > 0.999  # but for ties within rounding


@pytest.mark.parametrize("metric", ["spherical", "euclidean"])
def test_a_step_moves_centroids_to_the_means_of_smoothed_clusters(metric: Metric) -> None:
    z, guide, _ = scene(noise=0.5)
    start = F.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    clusters, _ = smoothed_assign(z, guide, start, SMOOTHING)
    points = F.normalize(z, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    means = torch.stack([points[clusters == k].mean(0) if (clusters == k).any() else start[k] for k in range(3)])
    parts = [(z[:1], guide[:1]), (z[1:], guide[1:])]
    got = smoothed_lloyd(parts, start, 1, metric, SMOOTHING, reseed=False)
    torch.testing.assert_close(got, project(means, metric), atol=1e-5, rtol=0)


def test_it_finds_surfaces_that_k_means_of_cells_does_not() -> None:
    z, guide, truth = scene(noise=0.9, seed=3)
    points = F.normalize(z, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    start = points[:: len(points) // 2][:2]
    plain = project(lloyd(points, start, 50, "spherical")[0], "spherical").float()
    centroids = smoothed_lloyd([(z, guide)], plain, 20, "spherical", SMOOTHING)

    def agreement(clusters: Tensor) -> float:
        same = float((clusters == truth.flatten()).float().mean())
        return max(same, 1 - same)

    assert agreement(smoothed_assign(z, guide, centroids, SMOOTHING)[0]) > 0.97
    assert agreement(assign(points, plain)[0]) < 0.9


def test_an_empty_cluster_moves_to_the_farthest_cells() -> None:
    z, guide, truth = scene(noise=0.05)
    two = torch.stack([F.normalize(z, dim=1).permute(0, 2, 3, 1)[truth == k].mean(0) for k in (0, 1)])
    start = torch.cat([F.normalize(two, dim=1), -F.normalize(two.sum(0, keepdim=True), dim=1)])  # nothing is near the third
    assert (smoothed_assign(z, guide, start, SMOOTHING)[0] == 2).sum() == 0
    kept = smoothed_lloyd([(z, guide)], start, 1, "spherical", SMOOTHING, reseed=False)
    torch.testing.assert_close(kept[2], start[2])
    moved = smoothed_lloyd([(z[:2], guide[:2]), (z[2:], guide[2:])], start, 1, "spherical", SMOOTHING)
    points = F.normalize(z, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    farthest = points[assign(points, start)[1].argmax()]
    torch.testing.assert_close(moved[2], farthest, atol=1e-5, rtol=0)
