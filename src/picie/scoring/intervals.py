"""Bootstrap confidence intervals over the images of a split.

Images are resampled instead of pixels, because the pixels of one image are not independent. The
intervals do not include the variation between training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from picie.errors import InputError
from picie.runtime.rng import derived_seed
from picie.scoring.metrics import Ratios, group_scores, score

LEVEL = 95  # percent of the resamples inside an interval
RESAMPLES = 1000
MAX_RESAMPLES = 100_000  # takes minutes on a large split; beyond this, intervals hardly change
_CELLS = 2**23  # counts in memory at a time (64 MB), for any C, K and number of images


class Interval(NamedTuple):
    """The ends of an interval as ratios; NaN if the score is undefined."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals of `LEVEL` percent.

    Attributes:
        resamples: number of bootstrap resamples.
        accuracy: interval of the pixel accuracy.
        miou: interval of the mIoU.
        groups: intervals of accuracy and mIoU of each group.
    """

    resamples: int
    accuracy: Interval
    miou: Interval
    groups: dict[str, tuple[Interval, Interval]]


def check_resamples(resamples: int) -> None:
    """Raise `InputError` for a number of resamples that is negative or would take hours."""
    if not 0 <= resamples <= MAX_RESAMPLES:
        raise InputError(f"--bootstrap {resamples}: give a number from 0 to {MAX_RESAMPLES}; {RESAMPLES} is enough")


def bootstrap(
    counts: Any,
    n_classes: int,
    match: Callable[[np.ndarray], np.ndarray],
    groups: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """Compute confidence intervals of accuracy and mIoU by resampling images.

    Args:
        counts: (N, C * K) sparse array; row i is the flattened confusion of image i.
        n_classes: C.
        match: maps the (C, K) confusion of a resample to its (K,) assignment.
        groups: the group of each class, or empty.
        resamples: number of resamples; each draws N images with replacement.
        seed: random seed of the draws.
    """
    overall, by_group = [], []
    for confusion in resampled(counts, n_classes, resamples, seed):
        scores = score(confusion, match(confusion))
        overall.append(Ratios(scores.accuracy, scores.miou))
        by_group.append(group_scores(scores, groups))
    accuracy, miou = _intervals(overall)
    return Intervals(
        resamples, accuracy, miou, {g: _intervals([ratios[g] for ratios in by_group]) for g in dict.fromkeys(groups)}
    )


def resampled(counts: Any, n_classes: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the (C, K) confusion of each resample. The chunk size does not change the result."""
    n, cells = counts.shape
    generator = np.random.default_rng(derived_seed(seed, "bootstrap"))
    chunk = max(1, _CELLS // max(n, cells))
    for start in range(0, resamples, chunk):
        # how often each image is drawn
        times = generator.multinomial(n, np.full(n, 1 / n), size=min(chunk, resamples - start))
        for total in times @ counts:
            yield total.reshape(n_classes, -1)


def _intervals(results: Sequence[Ratios]) -> tuple[Interval, Interval]:
    accuracy, miou = (_interval([getattr(ratios, name) for ratios in results]) for name in Ratios._fields)
    return accuracy, miou


def _interval(values: Sequence[float]) -> Interval:
    numbers = np.array(values)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return Interval(float("nan"), float("nan"))
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(numbers, [tail, 100 - tail])
    return Interval(float(low), float(high))
