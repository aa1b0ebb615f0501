"""Means, spread, Welch's test and Holm's correction, against formulas written out and against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from picie.comparing.significance import Spread, differences, holm, untestable


def test_mean_and_sample_deviation() -> None:
    spread = Spread((72.1, 70.3, 66.3))
    assert spread.mean == pytest.approx(69.5667, abs=1e-4)
    assert spread.deviation == pytest.approx(math.sqrt((2.53333**2 + 0.73333**2 + 3.26667**2) / 2), abs=1e-4)
    assert (Spread((5.0,)).mean, Spread((5.0,)).deviation) == (5.0, None)
    assert (Spread(()).mean, Spread(()).deviation) == (None, None)


def test_welch_is_as_its_formula_says() -> None:
    first, second = Spread((60.3, 57.5, 60.3)), Spread((72.1, 70.3, 66.3, 70.0))
    (found,) = differences([(first, second)])
    parts = [np.var(s.values, ddof=1) / len(s.values) for s in (first, second)]
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    mean = np.mean(second.values) - np.mean(first.values)
    assert found.mean == pytest.approx(mean)
    assert found.p == pytest.approx(2 * stats.t.sf(mean / error, freedom))
    half = stats.t.ppf(0.975, freedom) * error
    assert found.interval == pytest.approx((mean - half, mean + half))
    assert found.corrected == found.p  # one test needs no correction
    assert found.significant


def test_noise_of_three_seeds_is_not_significant() -> None:
    (found,) = differences([(Spread((69.0, 70.0, 71.0)), Spread((70.0, 71.0, 72.5)))])
    assert not found.significant
    assert found.interval[0] < 0 < found.interval[1]


def test_the_correction_can_take_a_verdict_back() -> None:
    close = (Spread((60.0, 61.0, 62.0)), Spread((63.0, 64.0, 65.0)))
    (alone,) = differences([close])
    among = differences([close, (Spread((1.0, 2.0, 3.0)), Spread((1.5, 2.0, 3.0))), close])
    assert alone.significant
    assert not among[0].significant
    assert among[0].p == alone.p
    assert among[0].interval == alone.interval


def test_one_setting_may_have_no_spread() -> None:
    (found,) = differences([(Spread((50.0, 50.0, 50.0)), Spread((60.0, 61.0, 62.0)))])
    assert found.p == pytest.approx(stats.ttest_1samp((60.0, 61.0, 62.0), 50.0).pvalue)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_as_defined(p: list[float]) -> None:
    corrected = holm(p)
    for i, own in enumerate(p):  # the largest of (m - rank) * p over the ranks up to its own
        below = sorted((q, j) for j, q in enumerate(p))[: sorted((q, j) for j, q in enumerate(p)).index((own, i)) + 1]
        assert corrected[i] == pytest.approx(min(1.0, max((len(p) - rank) * q for rank, (q, _) in enumerate(below))))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((), (1.0, 2.0), "no scores"),
        ((1.0,), (2.0,), "not tested: each setting has only one seed, and seeds differ by 1-3 points of accuracy"),
        ((1.0,), (2.0, 3.0), "not tested: one setting has only one seed, and seeds differ by 1-3 points of accuracy"),
        ((1.0, 1.0), (2.0, 2.0), "not tested: all seeds have the same score"),
        ((1.0, 1.0), (2.0, 2.5), None),
    ],
)
def test_what_cannot_be_tested_is_said(first: tuple[float, ...], second: tuple[float, ...], words: str | None) -> None:
    assert untestable(Spread(first), Spread(second)) == words
