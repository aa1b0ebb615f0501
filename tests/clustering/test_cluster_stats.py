"""Counts, inertia and imbalance of an assignment."""

from __future__ import annotations

import pytest
import torch

from picie.clustering.cluster_stats import ClusterStats


def test_tally_by_hand() -> None:
    tally = ClusterStats(4)
    tally.add(torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, 3.0]))
    tally.add(torch.tensor([1, 3]), torch.tensor([0.0, 4.0]))
    assert tally.counts.tolist() == [2, 2, 0, 1]
    assert tally.inertia == pytest.approx(2.0)
    assert tally.empty == 1
    assert tally.imbalance == pytest.approx(4 * (0.4**2 + 0.4**2 + 0.2**2))
    assert (ClusterStats(3).inertia, ClusterStats(3).empty) == (0.0, 3)
    one = ClusterStats(3)
    one.add(torch.zeros(5, dtype=torch.long), torch.zeros(5))
    assert one.imbalance == pytest.approx(3)


def test_any_number_of_batches() -> None:
    clusters = torch.randint(0, 7, (200, 30), generator=torch.Generator().manual_seed(0))
    tally = ClusterStats(7)
    for number, own in enumerate(clusters):
        tally.add(own, torch.full((30,), float(number)))
        if number % 50 == 0:  # reading in between changes nothing
            assert int(tally.counts.sum()) == 30 * (number + 1)
    assert tally.counts.tolist() == torch.bincount(clusters.flatten()).tolist()
    assert tally.inertia == pytest.approx(99.5)
