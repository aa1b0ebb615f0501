"""How far a score would move on other images: bootstrap confidence intervals over the images of a split.

Images, not pixels, are drawn anew: pixels of one image are not independent. What is not in it: another seed of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from picie.runtime.rng import derived_seed
from picie.scoring.metrics import Ratios, group_scores, score

LEVEL = 95  # percent of the resamples that lie inside
RESAMPLES = 1000
_CELLS = 2**23  # counts held at a time: 64 MB, whatever C, K and the number of images


class Interval(NamedTuple):
    """The ends of an interval, as ratios; NaN where there is no number."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals of a score, of `LEVEL` percent.

    Attributes:
        resamples: how many they are taken from.
        accuracy: of pixel accuracy.
        miou: of mIoU.
        groups: of both, for each group.
    """

    resamples: int
    accuracy: Interval
    miou: Interval
    groups: dict[str, tuple[Interval, Interval]]


def bootstrap(
    counts: Any,
    n_classes: int,
    match: Callable[[np.ndarray], np.ndarray],
    groups: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """Intervals of what `picie.scoring.metrics` makes of resampled images.

    Args:
        counts: (N, C * K) sparse array, row i the confusion of image i, its rows one after the other.
        n_classes: C.
        match: (C, K) confusion -> (K,) assignment of a resample.
        groups: C names of groups, or none.
        resamples: how many times N images are drawn, with replacement.
        seed: equal seeds draw equal images.
    """
    everything, by_group = [], []
    for confusion in resampled(counts, n_classes, resamples, seed):
        scores = score(confusion, match(confusion))
        everything.append(Ratios(scores.accuracy, scores.miou))
        by_group.append(group_scores(scores, groups))
    accuracy, miou = _intervals(everything)
    return Intervals(
        resamples, accuracy, miou, {g: _intervals([found[g] for found in by_group]) for g in dict.fromkeys(groups)}
    )


def resampled(counts: Any, n_classes: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the (C, K) confusion of each resample; they do not depend on how many are summed at a time."""
    n, cells = counts.shape
    generator = np.random.default_rng(derived_seed(seed, "bootstrap"))
    at_once = max(1, _CELLS // max(n, cells))
    for start in range(0, resamples, at_once):
        times = generator.multinomial(n, np.full(n, 1 / n), size=min(at_once, resamples - start))  # that each image is drawn
        for total in times @ counts:
            yield total.reshape(n_classes, -1)


def _intervals(found: Sequence[Ratios]) -> tuple[Interval, Interval]:
    accuracy, miou = (_interval([getattr(ratios, name) for ratios in found]) for name in Ratios._fields)
    return accuracy, miou


def _interval(values: Sequence[float]) -> Interval:
    numbers = np.array(values)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return Interval(float("nan"), float("nan"))
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(numbers, [tail, 100 - tail])
    return Interval(float(low), float(high))
