from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from picie.clustering.point_sample import PointSample, points_of
from picie.runtime import distributed


def numbered(n: int, first: int = 0) -> Tensor:
    """(n, 2) points of many norms, whose angle tells their number."""
    numbers = torch.arange(first, first + n, dtype=torch.float64)
    angle = numbers / 10_000
    return ((1 + numbers % 7) * torch.stack([angle.cos(), angle.sin()])).T


def numbers(points: Tensor) -> np.ndarray:
    return (10_000 * torch.atan2(points[:, 1], points[:, 0])).round().long().numpy()


def sampled(sizes: list[int], most: int, seed: int = 0) -> tuple[np.ndarray, float]:
    sample = PointSample(most, len(sizes), seed)
    for i, n in enumerate(sizes):
        sample.add(numbered(n, 1000 * i))
    points, weight = sample.take()
    return numbers(points), weight


def test_points_are_cells_row_by_row() -> None:
    z = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    points = points_of(z)
    assert points.shape == (8, 3)
    assert points[1].tolist() == z[0, :, 0, 1].tolist()


def test_each_batch_gives_an_equal_share_without_repeats() -> None:
    found, weight = sampled([700, 700, 700], 300)
    assert len(set(found.tolist())) == len(found) == 300
    assert np.bincount(found // 1000).tolist() == [100, 100, 100]
    assert weight == pytest.approx(7.0)


@pytest.mark.parametrize(("n", "most"), [(23, 10), (19, 10)])
def test_every_point_is_as_likely(n: int, most: int) -> None:
    counts = np.zeros(n)
    for seed in range(4000):
        found, _ = sampled([n], most, seed)
        counts[found] += 1
    np.testing.assert_allclose(counts, 4000 * most / n, rtol=0.12)


def test_a_small_batch_gives_all_that_it_has() -> None:
    found, weight = sampled([300, 20], 200)
    assert (found >= 1000).sum() == 20
    assert len(found) == 120
    assert weight == pytest.approx(320 / 120)


def test_another_seed_chooses_other_points() -> None:
    assert np.array_equal(sampled([500], 50, 1)[0], sampled([500], 50, 1)[0])
    assert not np.array_equal(sampled([500], 50, 1)[0], sampled([500], 50, 2)[0])


@pytest.mark.parametrize("parts", [[250, 250], [500, 0], [0, 500], [3, 497]])
def test_processes_with_parts_of_a_batch_choose_as_one_does_with_all(parts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PointSample(60, 1, 7)
    whole.add(numbered(500))
    own = []
    for rank, size in enumerate(parts):
        monkeypatch.setattr(distributed, "all_gather_object", lambda value: parts)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        part = PointSample(60, 1, 7)
        part.add(numbered(500)[sum(parts[:rank]) :][:size])
        own.append(part.take()[0])
    assert torch.equal(sum(own), whole.take()[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_sample_has_norm_1_and_single_precision(dtype: torch.dtype) -> None:
    sample = PointSample(10, 1, 0)
    sample.add(numbered(40).to(dtype))
    points, _ = sample.take()
    assert (points.dtype, points.shape) == (torch.float32, (10, 2))
    torch.testing.assert_close(points.norm(dim=1), torch.ones(10))
