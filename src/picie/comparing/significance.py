"""Tests of significance between settings: Welch's t-test over seeds, with Holm's correction.

Runs with the same seed are not treated as pairs. A paired test has half the degrees of freedom
(with three seeds |t| > 4.3 instead of 2.8), and its gain is not known in advance
(docs/research/comparing.md). Welch's test is valid in both cases and does not assume equal
variances.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05  # a difference is significant if its corrected p-value is below this


@dataclass(frozen=True)
class Spread:
    """The values of one setting, one for each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean of the values; None if there are none."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """Result of Welch's t-test of two settings.

    Attributes:
        mean: difference of the means, second minus first.
        interval: its 95 % confidence interval, not corrected for multiple tests.
        p: p-value of this pair alone.
        corrected: p-value corrected for the number of tested pairs.
    """

    mean: float
    interval: tuple[float, float]
    p: float
    corrected: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 5 %."""
        return self.corrected < LEVEL


def untestable(first: Spread, second: Spread) -> str | None:
    """The reason why two settings cannot be tested, or None if they can."""
    smallest = min(len(first.values), len(second.values))
    if smallest == 0:
        return "no scores"
    if smallest == 1:
        which = "each setting has" if len(first.values) == len(second.values) else "one setting has"
        return f"not tested: {which} only one seed, and seeds differ by 1-3 points of accuracy"
    if not first.deviation and not second.deviation:
        return "not tested: all seeds have the same score"
    return None


def differences(pairs: Sequence[tuple[Spread, Spread]]) -> list[Difference]:
    """Test each pair by Welch's t-test, corrected for the number of pairs.

    No pair may be `untestable`.
    """
    # imported here, because it takes a second, which would slow down `picie --help`
    from scipy import stats

    with warnings.catch_warnings():
        # SciPy warns if one setting has no variance; the test is still valid
        warnings.simplefilter("ignore", RuntimeWarning)
        tests = [stats.ttest_ind(second.values, first.values, equal_var=False) for first, second in pairs]
    results = []
    for (first, second), test, corrected in zip(pairs, tests, holm([float(t.pvalue) for t in tests]), strict=True):
        interval = test.confidence_interval(0.95)
        mean = statistics.fmean(second.values) - statistics.fmean(first.values)
        results.append(Difference(mean, (float(interval.low), float(interval.high)), float(test.pvalue), corrected))
    return results


def holm(p: Sequence[float]) -> list[float]:
    """Apply Holm's correction, which bounds the probability of one or more false positives.

    Args:
        p: p-values.

    Returns:
        The corrected p-values, in the order of `p`.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = highest
    return corrected
