"""The result of scoring label maps: counts of each image, the scores computed from them, and the
protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from picie.data.base import UNMATCHED, ClassMap
from picie.scoring.boundaries import boundary_accuracy
from picie.scoring.by_name import ByName
from picie.scoring.intervals import LEVEL, RESAMPLES, Intervals, bootstrap
from picie.scoring.metrics import MATCHINGS, Ratios, Scores, group_scores, published_group_scores, score

_MIN_NAMED_IOU = 0.05  # a cluster is not named after a class that it matches at a lower IoU
_DESCRIPTIONS = {  # how the protocol describes each of MATCHINGS
    "one-to-one": "one-to-one Hungarian on pixels over the split",
    "one-to-one-iou": "one-to-one Hungarian on IoU over the split",
    "many-to-one": "many-to-one by majority of pixels over the split",
    "identity": "values taken as classes",
}


@dataclass(frozen=True)
class Evaluation:
    """The result of scoring a split or a folder.

    Attributes:
        confusion: (C, K) pixel counts.
        assignment: (K,) int64 class of each cluster, or UNMATCHED.
        scores: scores under this assignment.
        classes: the classes.
        protocol: description of how the score was made; report it with every number.
        n_images: number of scored images.
        matching: the name of the matching, a key of `picie.scoring.metrics.MATCHINGS`, or "name".
        counts: (N, C * K) sparse: the confusion of each image, flattened row by row.
        void: column of the pixels without a prediction, or None; it is never matched.
        intervals: confidence intervals of the scores, or None until `with_intervals` adds them.
        labels: what the label files contain: "ignored" (percent of pixels), "values", "files"; None
            if unknown.
        borders: (C, K) counts of the pixels near borders between classes; None if not counted.
    """

    confusion: np.ndarray
    assignment: np.ndarray
    scores: Scores
    classes: ClassMap
    protocol: str
    n_images: int
    matching: str
    counts: Any
    void: int | None = None
    intervals: Intervals | None = None
    labels: Mapping[str, Any] | None = None
    borders: np.ndarray | None = None

    @property
    def boundary_accuracy(self) -> float:
        """The accuracy within `picie.scoring.boundaries.RADIUS` pixels of a border; NaN if unknown."""
        return float("nan") if self.borders is None else boundary_accuracy(self.borders, self.assignment)

    @property
    def groups(self) -> dict[str, Ratios]:
        """Scores of each group of classes (`metrics.group_scores`); empty if there is only one
        group.
        """
        return group_scores(self.scores, _groups(self.classes))

    @property
    def groups_published(self) -> dict[str, Ratios]:
        """Scores of each group by the published code's arithmetic.

        See `metrics.published_group_scores`. Empty if they are undefined: there must be as many
        clusters as classes, matched one to one on pixels, and the classes of each group must be
        contiguous.
        """
        square = _square(self.confusion, self.void)
        groups = _groups(self.classes)
        blocks = sum(a != b for a, b in pairwise(groups)) + 1
        if self.matching != "one-to-one" or square is None or blocks != len(set(groups)):
            return {}
        assignment = MATCHINGS["one-to-one"](square, None)
        unmatched = assignment == UNMATCHED
        # classes without pixels, in order
        assignment[unmatched] = np.setdiff1d(np.arange(len(square)), assignment)
        return published_group_scores(square, assignment, groups)

    @property
    def matchings(self) -> dict[str, Ratios]:
        """Accuracy and mIoU under each matching.

        Identity is included only if it is the matching used.
        """
        names = [name for name in MATCHINGS if name in (self.matching, *(n for n in MATCHINGS if n != "identity"))]
        results = {name: score(self.confusion, MATCHINGS[name](self.confusion, self.void)) for name in names}
        return {name: Ratios(scores.accuracy, scores.miou) for name, scores in results.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: scores in percent, NaN as None."""
        published = self.groups_published
        return {
            "accuracy": percent(self.scores.accuracy),
            "miou": percent(self.scores.miou),
            "matching": self.matching,
            **({} if self.borders is None else {"boundary_accuracy": percent(self.boundary_accuracy)}),
            "n_classes_in_miou": int((~np.isnan(self.scores.iou)).sum()),
            "intervals": None if self.intervals is None else _plain_intervals(self.intervals),
            "groups": {name: _plain(ratios) for name, ratios in self.groups.items()},
            **({"groups_published": {name: _plain(ratios) for name, ratios in published.items()}} if published else {}),
            "matchings": {name: _plain(ratios) for name, ratios in self.matchings.items()},
            "per_class": [self._class_row(index) for index in range(len(self.classes))],
            "protocol": self.protocol,
            "n_images": self.n_images,
            **({"labels": dict(self.labels)} if self.labels is not None else {}),
        }

    def _class_row(self, index: int) -> dict[str, Any]:
        clusters = np.flatnonzero(self.assignment == index)
        largest = clusters[np.argsort(-self.confusion[index, clusters], kind="stable")]
        return {
            "name": self.classes.names[index],
            "iou": percent(self.scores.iou[index]),
            "accuracy": percent(self.scores.class_accuracy[index]),
            "pixels": int(self.scores.pixels[index]),
            "cluster": int(largest[0]) if len(clusters) else None,
            "clusters": largest.tolist(),
        }


def summarise(
    counts: Any, classes: ClassMap, matching: str | ByName, scope: str, void: int | None = None, k: int | None = None
) -> Evaluation:
    """Match clusters to classes and compute the scores.

    Args:
        counts: (N, C * K) sparse, as returned by `stack_counts`.
        classes: the C classes.
        matching: a key of `picie.scoring.metrics.MATCHINGS`, or a matching by name.
        scope: first part of the protocol; states which pixels were counted.
        void: column of the pixels without a prediction, or None.
        k: number of clusters that the protocol states; None counts all columns except `void`.
    """
    confusion = np.asarray(counts.sum(0)).reshape(len(classes), -1)
    k = confusion.shape[1] - (void is not None) if k is None else k
    if isinstance(matching, ByName):
        assignment, name, how = matching.assignment, "name", f"{matching.source}, matched by name"
    else:
        assignment, name, how = MATCHINGS[matching](confusion, void), matching, _DESCRIPTIONS[matching]
    sizes = f"{len(classes)} classes" if name in {"identity", "name"} else f"K = {k}, {len(classes)} classes"
    protocol = f"{scope}; {sizes}; {how}; mIoU over classes present"
    return Evaluation(
        confusion, assignment, score(confusion, assignment), classes, protocol, counts.shape[0], name, counts, void
    )


def with_intervals(result: Evaluation, resamples: int = RESAMPLES) -> Evaluation:
    """Add confidence intervals from `resamples` bootstrap resamples.

    Returns `result` unchanged for 0 resamples or fewer than two images.

    All resamples use the matching of the whole split. Matching each resample again would overfit,
    because a resample holds fewer different images: with 15 images the 95 % interval would then
    contain the true accuracy in 63 to 70 % of the cases, instead of 88 to 90 %. From 100 images on
    the two agree (benchmarks/coverage.py).
    """
    if not resamples or result.n_images < 2:
        return result
    classes = result.classes
    intervals = bootstrap(result.counts, len(classes), lambda _: result.assignment, _groups(classes), resamples)
    return replace(result, intervals=intervals)


def _square(confusion: np.ndarray, void: int | None) -> np.ndarray | None:
    """`confusion` without its `void` column, if that is empty and the rest is square; else None."""
    if void is not None and confusion[:, void].any():
        return None
    clusters = confusion if void is None else np.delete(confusion, void, axis=1)
    return clusters if clusters.shape[1] == len(confusion) else None


def _groups(classes: ClassMap) -> tuple[str, ...]:
    """The group of each class; empty if all classes are in one group."""
    return classes.groups if len(set(classes.groups)) > 1 else ()


def stack_counts(images: Sequence[Any], n_classes: int, k: int) -> Any:
    """Stack N sparse confusion matrices into (N, C * K) sparse int64.

    Each is a `scipy.sparse.coo_array` with C rows and at most K columns.
    """
    if not images:
        return csr_array((0, n_classes * k), dtype=np.int64)
    cells = np.concatenate([image.row.astype(np.int64) * k + image.col for image in images])
    starts = np.cumsum([0, *(image.nnz for image in images)])
    values = np.concatenate([image.data for image in images])
    return csr_array((values, cells, starts), shape=(len(images), n_classes * k))


def unmatched_clusters(result: Evaluation) -> list[int]:
    """Clusters that are matched to no class."""
    return [int(i) for i in np.flatnonzero(result.assignment == UNMATCHED) if i != result.void]


def named_assignment(result: Evaluation) -> np.ndarray:
    """The assignment (K,) that names clusters, without matches to classes of an IoU below 5 %.

    A one-to-one matching pairs clusters and classes even if they hardly overlap. Such a cluster
    would be shown under a misleading name, so it is UNMATCHED here. Scores do not use this
    assignment.
    """
    # the last element is used by UNMATCHED, which is -1
    recognised = np.append(np.nan_to_num(result.scores.iou) >= _MIN_NAMED_IOU, False)
    return np.where(recognised[result.assignment], result.assignment, UNMATCHED)


def percent(ratio: float) -> float | None:
    """Return `ratio` in percent, or None for NaN."""
    return None if np.isnan(ratio) else round(100 * float(ratio), 4)


def _plain(ratios: Ratios) -> dict[str, float | None]:
    return {name: percent(value) for name, value in ratios._asdict().items()}


def _plain_intervals(intervals: Intervals) -> dict[str, Any]:
    ends = {"accuracy": intervals.accuracy, "miou": intervals.miou}
    groups = {name: dict(zip(ends, pair, strict=True)) for name, pair in intervals.groups.items()}
    return {
        "level": LEVEL,
        "resamples": intervals.resamples,
        **{name: [percent(end) for end in pair] for name, pair in ends.items()},
        "groups": {g: {name: [percent(end) for end in pair] for name, pair in both.items()} for g, both in groups.items()},
    }
