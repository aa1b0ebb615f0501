"""Streaming k-means against scikit-learn, faiss and brute force."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional as F

from picie.clustering import kmeans as module
from picie.clustering.kmeans import KMeans, Metric, assign, bias, cluster_sums, lloyd, plus_plus, project


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(n: int = 600, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed))


def blobs(k: int = 6, n: int = 50, seed: int = 0) -> tuple[Tensor, Tensor]:
    """K tight, far groups of n points each, and their K centres."""
    centres = 20 * F.one_hot(torch.arange(k), k).float()
    return (centres[:, None] + 0.1 * torch.randn(k, n, k, generator=generator(seed))).flatten(0, 1), centres


def brute_force(points: Tensor, centroids: Tensor) -> np.ndarray:
    return ((points.double().numpy()[:, None] - centroids.double().numpy()) ** 2).sum(2)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 7), st.integers(0, 99))
@settings(deadline=None)
def test_assign_is_the_nearest_by_brute_force(n: int, k: int, d: int, seed: int) -> None:
    points, centroids = cloud(n, d, seed), 2 * cloud(k, d, seed + 1)
    clusters, distances = assign(points, centroids)
    squared = brute_force(points, centroids)
    assert clusters.dtype == torch.int64
    np.testing.assert_allclose(squared[np.arange(n), clusters], squared.min(1), atol=1e-4)
    np.testing.assert_allclose(distances, squared.min(1), atol=1e-4)
    assert torch.equal((points @ centroids.T + bias(centroids)).argmax(1), clusters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 11, 16, 40])
def test_assign_of_points_taken_at_norm_1(k: int, dtype: torch.dtype) -> None:
    points, centroids = (9 * cloud(500)).to(dtype), cloud(k, seed=1)
    clusters, distances = assign(points, centroids, unit=True)
    expected = assign(F.normalize(points.float(), dim=1), centroids)
    assert distances.dtype == torch.float32
    assert (clusters == expected[0]).float().mean() > 0.995  # others are ties
    torch.testing.assert_close(distances, expected[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_a_point_that_is_no_number_gets_a_cluster_that_there_is(unit: bool) -> None:
    points = cloud(40)
    points[3, 0], points[5, 1] = torch.inf, torch.nan
    assert int(assign(points, cloud(11, seed=1), unit)[0].max()) < 11


@pytest.mark.parametrize("unit", [False, True])
def test_assign_of_nothing_is_empty(unit: bool) -> None:
    clusters, distances = assign(torch.zeros(0, 3), cloud(4, 3), unit)
    assert (clusters.shape, distances.shape, clusters.dtype) == ((0,), (0,), torch.int64)


def test_cluster_sums_by_brute_force_and_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    points, clusters = cloud(1000), torch.randint(0, 7, (1000,), generator=generator())
    clusters[clusters == 3] = 4  # cluster 3 is empty
    sums, counts = cluster_sums(points, clusters, 7)
    for k in range(7):
        torch.testing.assert_close(sums[k].float(), points[clusters == k].sum(0), atol=1e-4, rtol=0)
        assert counts[k] == (clusters == k).sum()
    whole = assign(points, points[:7])
    monkeypatch.setattr(module, "_chunks", lambda t, *_: t.split(37))
    torch.testing.assert_close(cluster_sums(points, clusters, 7)[0], sums, atol=1e-4, rtol=0)
    assert torch.equal(assign(points, points[:7])[0], whole[0])
    torch.testing.assert_close(assign(points, points[:7])[1], whole[1])


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_lloyd_is_scikit_learns(steps: int) -> None:
    points = cloud()
    start = points[:8].clone()
    ours, counts = lloyd(points, start, steps, "euclidean")
    theirs = SklearnKMeans(8, init=start.numpy(), n_init=1, max_iter=steps, tol=0, algorithm="lloyd").fit(points.numpy())
    np.testing.assert_allclose(ours, theirs.cluster_centers_, atol=1e-5)
    assert counts.sum() == len(points)
    if steps == 50:
        assert np.array_equal(counts, np.bincount(theirs.labels_, minlength=8))


@pytest.mark.parametrize("spherical", [False, True])
def test_lloyd_is_faisss(spherical: bool) -> None:
    points = F.normalize(cloud(), dim=1) if spherical else cloud()
    start = points[100:108].clone()
    theirs = faiss.Kmeans(5, 8, niter=10, spherical=spherical, max_points_per_centroid=10**6)
    theirs.train(points.numpy(), init_centroids=start.numpy())
    ours, _ = lloyd(points, start, 10, "spherical" if spherical else "euclidean")
    np.testing.assert_allclose(project(ours, "spherical" if spherical else "euclidean"), theirs.centroids, atol=1e-4)


def test_updates_are_scikit_learns_mini_batch_kmeans() -> None:
    batches = [cloud(100, seed=i) for i in range(8)]
    start = 1.5 * cloud(10, seed=99)
    theirs = MiniBatchKMeans(10, init=start.numpy(), n_init=1, reassignment_ratio=0)
    ours = KMeans(10, "euclidean", steps=1, reseed=False)
    ours.start(batches[0], start)
    theirs.partial_fit(batches[0].numpy())
    for batch in batches[1:]:
        np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-5)
        ours.update(batch)
        theirs.partial_fit(batch.numpy())
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-5)
    assert ours.counts.sum() == 800


def test_spherical_updates_by_the_formula() -> None:
    """c_k <- (1 - eta) c_k + eta mean_k with eta = n_k / count_k, from the sample's means, read out at norm 1."""
    sample = F.normalize(cloud(200), dim=1)
    kmeans = KMeans(4, "spherical", steps=100)
    kmeans.start(sample, weight=3.0)
    settled = assign(sample, kmeans.centroids)[0]
    mean = np.stack([sample[settled == k].double().mean(0).numpy() for k in range(4)])
    count = kmeans.counts.numpy().copy()
    assert count.sum() == 600  # each point of the sample stood for three
    for seed in range(1, 5):
        batch = F.normalize(cloud(50, seed=seed), dim=1).double().numpy()
        nearest = (batch @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T).argmax(1)
        for k in range(4):
            members = batch[nearest == k]
            count[k] += len(members)
            eta = len(members) / count[k]
            mean[k] = (1 - eta) * mean[k] + eta * (members.mean(0) if len(members) else 0)
        kmeans.update(torch.from_numpy(batch).float())
        np.testing.assert_allclose(kmeans.centroids, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
        np.testing.assert_allclose(kmeans.counts, count)


def test_spherical_centroids_have_norm_one_and_euclidean_ones_are_means() -> None:
    points = F.normalize(cloud(), dim=1)
    for metric in ("spherical", "euclidean"):
        kmeans = KMeans(6, metric, steps=3)
        kmeans.start(points)
        kmeans.update(points)
        norms = kmeans.centroids.norm(dim=1)
        assert (norms > 0.999).all() == (metric == "spherical")


def test_plus_plus_picks_points_and_spreads_over_blobs() -> None:
    points, centres = blobs()
    for seed in range(20):
        chosen = plus_plus(points, 6, generator(seed))[0]
        assert all((points == c).all(1).any() for c in chosen)
        assert sorted(assign(chosen, centres)[0].tolist()) == [0, 1, 2, 3, 4, 5]


def test_starts_made_together_are_those_made_one_after_another() -> None:
    points, one_by_one = cloud(300, 5), generator(3)
    apart = [plus_plus(points, 7, one_by_one)[0] for _ in range(4)]
    assert torch.equal(plus_plus(points, 7, generator(3), starts=4), torch.stack(apart))


def test_plus_plus_draws_by_squared_distance() -> None:
    """From 0, 1 and 3: after 0 comes 3 nine times in ten, after 1 in four of five, after 3 comes 0 in 9 of 13."""
    points = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [tuple(plus_plus(points, 2, generator(seed))[0, :, 0].tolist()) for seed in range(3000)]
    for first, second, share in ((0.0, 3.0, 0.9), (1.0, 3.0, 0.8), (3.0, 0.0, 9 / 13)):
        after = [b for a, b in pairs if a == first]
        assert len(after) / 3000 == pytest.approx(1 / 3, abs=0.035)
        assert np.mean([b == second for b in after]) == pytest.approx(share, abs=0.05)


def test_blobs_are_found_from_any_seed() -> None:
    points, centres = blobs()
    for seed in range(10):
        kmeans = KMeans(6, "euclidean", seed=seed)
        kmeans.start(points)
        order = assign(centres, kmeans.centroids)[0]
        np.testing.assert_allclose(kmeans.centroids[order], points.view(6, 50, 6).mean(1), atol=1e-4)
        assert kmeans.counts.tolist() == [50] * 6


def test_the_best_of_several_starts_is_taken() -> None:
    points = cloud(400, 2)

    def inertia(centroids: Tensor) -> float:
        return float(assign(points, lloyd(points, centroids, 10, "euclidean")[0].float())[1].mean())

    single = generator(5)
    tried = [inertia(plus_plus(points, 9, single)[0]) for _ in range(6)]
    assert max(tried) > 1.02 * min(tried)  # there is something to choose
    kmeans = KMeans(9, "euclidean", seed=5, restarts=6)
    assert float(assign(points, kmeans.best_start(points))[1].mean()) == pytest.approx(min(tried), rel=1e-4)
    best = SklearnKMeans(9, n_init=50, random_state=0).fit(points.numpy())
    given = kmeans.best_start(points, [torch.zeros(9, 2), torch.from_numpy(best.cluster_centers_)])
    assert float(assign(points, given)[1].mean()) == pytest.approx(best.inertia_ / 400, rel=1e-3)


def test_of_a_large_sample_starts_are_tried_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIAL", (50, 1))
    points, single = cloud(600, 2), generator(5)
    part = points[::11]  # 12, brought to an odd step
    tried = [lloyd(part, plus_plus(part, 9, single)[0], 10, "euclidean")[0].float() for _ in range(6)]
    objectives = [float(assign(part, centroids)[1].mean()) for centroids in tried]
    best = KMeans(9, "euclidean", seed=5, restarts=6).best_start(points)
    torch.testing.assert_close(best, tried[int(np.argmin(objectives))])
    assert max(objectives) > 1.02 * min(objectives)


def test_equal_seeds_give_equal_centroids_and_others_do_not() -> None:
    def run(seed: int) -> Tensor:
        kmeans = KMeans(5, steps=1, seed=seed)
        kmeans.start(cloud())
        return kmeans.centroids

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_an_empty_cluster_moves_to_the_worst_represented_point() -> None:
    points = torch.tensor([[0.0, 0], [0, 1], [1, 0], [9, 9]])
    start = torch.tensor([[0.4, 0.4], [-50, -50]])  # nothing is near the second
    moved, _ = lloyd(points, start, 1, "euclidean")
    assert moved[1].tolist() == [9, 9]
    settled, counts = lloyd(points, start, 10, "euclidean")
    np.testing.assert_allclose(settled, [[1 / 3, 1 / 3], [9, 9]], atol=1e-6)
    assert counts.tolist() == [3, 1]
    stayed, counts = lloyd(points, start, 10, "euclidean", reseed=False)
    assert stayed[1].tolist() == [-50, -50]
    assert counts.tolist() == [4, 0]


def few_points_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the start go most of its way on some 50 points, as it does on 2^14 of a large sample."""
    monkeypatch.setattr(module, "_SUBSAMPLE", (50, 1))


@pytest.mark.parametrize(("steps", "last"), [(2, 1), (20, 2), (30, 3)])
@pytest.mark.parametrize("metric", ["spherical", "euclidean"])
def test_a_large_sample_is_refine_on_a_part_of_it_then_on_all(
    metric: Metric, steps: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_points_first(monkeypatch)
    points = F.normalize(cloud(), dim=1) if metric == "spherical" else cloud()
    start = points[:8].clone()
    kmeans = KMeans(8, metric, steps)
    kmeans.start(points, start, weight=2.0)
    rough, _ = lloyd(points[::11], start, steps, metric)
    means, counts = lloyd(points, project(rough, metric).float(), last, metric)
    torch.testing.assert_close(kmeans.centroids, project(means, metric).float())
    assert torch.equal(kmeans.counts, 2 * counts)
    straight = project(lloyd(points, start, steps, metric)[0], metric).float()
    assert float((kmeans.centroids - straight).abs().max()) > 1e-3  # the other way comes elsewhere


@pytest.mark.parametrize("seed", range(5))
def test_a_start_on_a_part_of_the_sample_comes_as_near(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs(n=100, seed=seed)

    def inertia() -> float:
        kmeans = KMeans(6, "euclidean", seed=seed)
        kmeans.start(points)
        return float(assign(points, kmeans.centroids)[1].mean())

    straight = inertia()
    few_points_first(monkeypatch)
    assert inertia() <= 1.01 * straight


def test_degenerate_samples() -> None:
    kmeans = KMeans(4, "euclidean")
    with pytest.raises(ValueError, match="4 clusters cannot be made of 3 points"):
        kmeans.start(cloud(3))
    kmeans.start(cloud(4))  # K = n: each its own cluster
    assert sorted(kmeans.centroids.tolist()) == sorted(cloud(4).tolist())
    kmeans.start(torch.ones(10, 3))  # all points coincide
    assert torch.equal(kmeans.centroids, torch.ones(4, 3))
    assert kmeans.counts.sum() == 10
