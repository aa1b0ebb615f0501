"""The recommended number of clusters, where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from tests.clustering.test_criteria import blobs

from picie.naming.suggestion import Figures, judge, recommend

KS = range(2, 15)


@pytest.mark.parametrize("k", [3, pytest.param(8, marks=pytest.mark.long), 12])
@pytest.mark.parametrize("spread", [pytest.param(0.03, marks=pytest.mark.long), 0.15])
def test_the_number_of_groups_of_a_mixture_is_found(k: int, spread: float) -> None:
    points, _ = blobs(k, 1000, spread, seed=k)
    images = np.arange(1000) // 50
    figures = judge(points, images, KS, "spherical", 0)
    result = recommend(KS, figures, 27)
    assert result.k == k
    assert figures[k - 2].silhouette > 0.4
    assert figures[k - 2].stability == pytest.approx(1, abs=0.05)
    assert f"recommended: K = {k}." in result.reason
    assert len(result.limits) == 1
    assert "K = 27" in result.limits[0]


def test_a_continuum_is_called_one() -> None:
    points, _ = blobs(1, 800, 5.0)
    figures = judge(points, np.arange(800) // 50, (2, 4, 8), "spherical", 0)
    assert any("no clear groups" in limit for limit in recommend((2, 4, 8), figures, 8).limits)


def test_a_number_whose_clusters_do_not_come_back_is_not_recommended() -> None:
    figures = [Figures(1, 0.4, 10, 0.99, 0), Figures(0.8, 0.5, 12, 0.95, 0), Figures(0.5, 0.9, 30, 0.6, 0.2)]
    result = recommend((2, 3, 4), figures, 4)
    assert result.k == 3
    assert any("Calinski-Harabasz alone would suggest 4, silhouette alone 4" in limit for limit in result.limits)


def test_an_edge_is_called_one() -> None:
    figures = [Figures(1, 0.4, 10, 1, 0), Figures(0.8, 0.5, 12, 1, 0), Figures(0.5, 0.9, 30, 1, 0)]
    assert any("edge" in limit for limit in recommend((2, 3, 4), figures, 4).limits)


def test_the_same_seed_gives_the_same_figures() -> None:
    points, _ = blobs(3, 300, 0.3)
    images = np.arange(300) // 30
    assert judge(points, images, [4, 5], "spherical", 1) == judge(points, images, [4, 5], "spherical", 1)
