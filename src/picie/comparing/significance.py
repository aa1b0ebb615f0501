"""Is a difference between two settings more than noise? Means and spread over seeds, Welch's t-test, Holm's correction.

Runs that share a seed are not taken as pairs: it would cost half the degrees of freedom (three seeds: |t| > 4.3, not 2.8), and
what it gains is not known beforehand (docs/comparing.md). Welch's test holds either way and asks for no equal spread.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05  # of the corrected p, below which a difference is called more than noise


@dataclass(frozen=True)
class Spread:
    """Values of one setting, one of each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Their sample standard deviation (n - 1); None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """What Welch's t-test says of two settings.

    Attributes:
        mean: difference of the means, second less first.
        interval: its 95 % confidence interval, of this pair by itself.
        p: probability of a difference as large where there is none.
        corrected: the same, corrected for the number of pairs that were tested.
    """

    mean: float
    interval: tuple[float, float]
    p: float
    corrected: float

    @property
    def beyond_noise(self) -> bool:
        """Whether it would arise by chance in fewer than 5 % of such comparisons."""
        return self.corrected < LEVEL


def untestable(first: Spread, second: Spread) -> str | None:
    """Why two settings cannot be tested, in words; None if they can."""
    fewest = min(len(first.values), len(second.values))
    if fewest == 0:
        return "no scores"
    if fewest == 1:
        both = len(first.values) == len(second.values)
        return f"one seed {'each' if both else 'of one'}: no verdict; differences of 1-3 accuracy are noise"
    if not first.deviation and not second.deviation:
        return "no verdict: the seeds have no spread"
    return None


def differences(pairs: Sequence[tuple[Spread, Spread]]) -> list[Difference]:
    """Welch's t-test of each pair; none of them `untestable`. The correction is for all of them together."""
    from scipy import stats  # a second, which `picie --help` need not wait for

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one of two settings may have no spread: Welch's test allows for it
        tests = [stats.ttest_ind(second.values, first.values, equal_var=False) for first, second in pairs]
    found = []
    for (first, second), test, corrected in zip(pairs, tests, holm([float(t.pvalue) for t in tests]), strict=True):
        interval = test.confidence_interval(0.95)
        mean = statistics.fmean(second.values) - statistics.fmean(first.values)
        found.append(Difference(mean, (float(interval.low), float(interval.high)), float(test.pvalue), corrected))
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order of `p`: the chance of even one false alarm among all stays below the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = highest
    return corrected
