"""Criteria for a number of clusters, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.criteria import adjusted_rand, calinski_harabasz, silhouette, stability
from picie.clustering.kmeans import lloyd, plus_plus, project


def blobs(k: int, n: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`n` unit-norm points around `k` directions in 16 dimensions, and whose each is."""
    generator = torch.Generator().manual_seed(seed)
    middles = F.normalize(torch.randn(k, 16, generator=generator), dim=1)
    owner = torch.randint(k, (n,), generator=generator)
    return F.normalize(middles[owner] + spread * torch.randn(n, 16, generator=generator), dim=1), owner


@pytest.mark.parametrize("spread", [0.05, 0.5])
@pytest.mark.parametrize("empty", [0, 2])
def test_silhouette_and_calinski_harabasz_are_scikit_learns(spread: float, empty: int) -> None:
    points, owner = blobs(5, 600, spread)
    owner[0] = 5  # one cluster of one point
    k = 6 + empty
    assert silhouette(points, owner, k) == pytest.approx(metrics.silhouette_score(points, owner, metric="cosine"), abs=1e-5)
    assert calinski_harabasz(points, owner, k) == pytest.approx(metrics.calinski_harabasz_score(points, owner), rel=1e-4)


def test_one_cluster_has_no_figures() -> None:
    points, _ = blobs(1, 50, 0.1)
    one = torch.zeros(50, dtype=torch.long)
    assert silhouette(points, one, 3) == 0
    assert np.isnan(calinski_harabasz(points, one, 3))


def test_adjusted_rand_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for k, noise in ((2, 0.0), (7, 0.3), (7, 1.0)):
        first = rng.integers(k, size=500)
        second = np.where(rng.random(500) < noise, rng.integers(k, size=500), k - 1 - first)
        assert adjusted_rand(first, second) == pytest.approx(metrics.adjusted_rand_score(first, second))
    assert adjusted_rand(np.zeros(5, int), np.zeros(5, int)) == 1


def test_stability_is_1_for_groups_that_are_there_and_low_for_a_continuum() -> None:
    numbers = []

    def fit(part: Tensor, number: int) -> Tensor:
        numbers.append(number)
        start = plus_plus(part, 5, torch.Generator().manual_seed(0))[0]  # a poor start may miss a group; 0 does not
        return project(lloyd(part, start, 30, "spherical")[0], "spherical").float()

    images = np.repeat(np.arange(20), 100)
    assert stability(blobs(5, 2000, 0.05)[0], images, fit, 2, 0).tolist() == [1, 1]
    assert numbers == [0, 1, 2, 3]
    assert stability(blobs(1, 2000, 5.0)[0], images, fit, 3, 0).max() < 0.6


def test_an_image_is_in_one_half() -> None:
    seen: list[set[float]] = []
    images = np.repeat(np.arange(10), 7)
    points = torch.from_numpy(np.repeat(np.arange(10.0), 7))[:, None].float()

    def fit(part: Tensor, _: int) -> Tensor:
        seen.append(set(part[:, 0].tolist()))
        return torch.tensor([[0.0], [1.0]])

    stability(points, images, fit, 3, 0)
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert (len(first), len(second), first & second) == (5, 5, set())
    assert seen[0] != seen[2]
