"""Confusion matrices, matchings of clusters to classes, and scores. Pure functions.

A confusion matrix is (C, K): its rows are classes and its columns are clusters. Counts are summed
before any ratio is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from picie.data.base import UNMATCHED


def confusion_matrix(labels: np.ndarray, clusters: np.ndarray, n_classes: int, k: int, ignore: int) -> np.ndarray:
    """Count pixels by label and cluster.

    Args:
        labels: integer labels in [0, C) or `ignore`, of any shape.
        clusters: integer clusters in [0, K), of the same shape.
        n_classes: C.
        k: K.
        ignore: label of the pixels that are not counted.

    Returns:
        (C, K) int64 pixel counts.

    >>> confusion_matrix(np.array([0, 0, 1, 255]), np.array([2, 2, 0, 1]), 2, 3, 255).tolist()
    [[0, 0, 2], [1, 0, 0]]
    """
    labelled = labels != ignore
    joint = labels[labelled].astype(np.int64) * k + clusters[labelled].astype(np.int64)
    return np.bincount(joint, minlength=n_classes * k).reshape(n_classes, k)


def match_one_to_one(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """Hungarian matching that maximises the number of agreeing pixels.

    If there are more clusters than classes, the remaining clusters are unmatched; if there are
    fewer, some classes are never predicted. A class without labelled pixels is not matched.

    Args:
        confusion: (C, K) pixel counts.
        void: column of the pixels without a prediction, or None; it is never matched.

    Returns:
        (K,) int64 class of each cluster, or UNMATCHED.

    >>> match_one_to_one(np.array([[0, 9, 1], [5, 0, 4]])).tolist()
    [1, 0, -1]
    """
    return _best_pairs(confusion, void, confusion.sum(1) > 0)


def match_one_to_one_iou(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """Hungarian matching that maximises the sum of the pairs' IoU, so that small classes
    count as much as large ones.

    Arguments and result are those of `match_one_to_one`.

    >>> confusion = np.array([[10, 8], [1, 0]])
    >>> match_one_to_one(confusion).tolist(), match_one_to_one_iou(confusion).tolist()
    ([0, 1], [1, 0])
    """
    union = confusion.sum(1, keepdims=True) + confusion.sum(0) - confusion
    return _best_pairs(confusion / np.maximum(union, 1), void, confusion.sum(1) > 0)


def match_many_to_one(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """Match each cluster to the most frequent class of its labelled pixels; a cluster without any
    is UNMATCHED.

    Arguments and result are those of `match_one_to_one`.

    >>> match_many_to_one(np.array([[0, 9, 5, 0], [5, 0, 4, 0]])).tolist()
    [1, 0, 0, -1]
    """
    return _without(np.where(confusion.any(0), confusion.argmax(0), UNMATCHED), void)


def match_identity(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """Use cluster indices as class indices; an index that is not a class is UNMATCHED.

    Arguments and result are those of `match_one_to_one`.

    >>> match_identity(np.zeros((2, 4))).tolist()
    [0, 1, -1, -1]
    """
    columns = np.arange(confusion.shape[1])
    return _without(np.where(columns < len(confusion), columns, UNMATCHED), void)


MATCHINGS: dict[str, Callable[[np.ndarray, int | None], np.ndarray]] = {
    "one-to-one": match_one_to_one,
    "one-to-one-iou": match_one_to_one_iou,
    "many-to-one": match_many_to_one,
    "identity": match_identity,
}


def _best_pairs(gain: np.ndarray, void: int | None, labelled: np.ndarray) -> np.ndarray:
    """The assignment with the largest sum of `gain` (C, K) among the `labelled` (C,) classes.

    Classes without labelled pixels are excluded: no cluster gains anything from them, so ties
    would be broken arbitrarily. If such a class were matched to an empty cluster, it would not
    count in the mean IoU; if it were matched to any other cluster, it would count as 0.
    """
    rows, columns = np.flatnonzero(labelled), np.flatnonzero(np.arange(gain.shape[1]) != void)
    classes, pairs = linear_sum_assignment(gain[np.ix_(rows, columns)], maximize=True)
    assignment = np.full(gain.shape[1], UNMATCHED, dtype=np.int64)
    assignment[columns[pairs]] = rows[classes]
    return assignment


def _without(assignment: np.ndarray, void: int | None) -> np.ndarray:
    return np.where(np.arange(len(assignment)) == void, UNMATCHED, assignment)


class Ratios(NamedTuple):
    """Pixel accuracy and mIoU of some classes, in [0, 1]; NaN if they have no pixels."""

    accuracy: float
    miou: float


@dataclass(frozen=True)
class Scores:
    """Scores of a matched confusion matrix. Ratios are in [0, 1], and NaN if undefined.

    Attributes:
        accuracy: correct pixels divided by labelled pixels.
        miou: mean of `iou` over the classes that occur in the labels or the predictions.
        iou: (C,) intersection over union of each class.
        class_accuracy: (C,) recall of each class.
        pixels: (C,) labelled pixels of each class.
        agree: (C,) correct pixels of each class.
    """

    accuracy: float
    miou: float
    iou: np.ndarray
    class_accuracy: np.ndarray
    pixels: np.ndarray
    agree: np.ndarray


def score(confusion: np.ndarray, assignment: np.ndarray) -> Scores:
    """Score a (C, K) `confusion` under an `assignment` (K,). Pixels of unmatched clusters count as
    errors.

    >>> round(score(np.array([[3, 1], [0, 4]]), np.array([0, 1])).miou, 3)
    0.775
    """
    n_classes = len(confusion)
    # the last column holds pixels of unmatched clusters
    matched = np.zeros((n_classes, n_classes + 1), dtype=np.int64)
    np.add.at(matched.T, np.where(assignment == UNMATCHED, n_classes, assignment), confusion.T)
    agree = np.diagonal(matched)
    pixels, predicted = matched.sum(1), matched.sum(0)[:n_classes]
    with np.errstate(invalid="ignore"):
        iou = agree / (pixels + predicted - agree)
        recall = agree / pixels
    accuracy, miou = _ratios(agree, pixels, iou)
    return Scores(accuracy, miou, iou, recall, pixels, agree)


def _ratios(agree: np.ndarray, pixels: np.ndarray, iou: np.ndarray) -> Ratios:
    accuracy = float(agree.sum() / pixels.sum()) if pixels.sum() else float("nan")
    return Ratios(accuracy, float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan"))


def group_scores(scores: Scores, groups: Sequence[str]) -> dict[str, Ratios]:
    """Accuracy over the pixels and mean IoU over the classes of each group.

    All errors count: a stuff pixel that is predicted as a thing lowers the IoU of classes in both
    groups. Accuracy and mIoU over all classes therefore lie between those of the groups.

    Args:
        scores: scores of all classes.
        groups: the group of each of the C classes.

    >>> confusion = np.array([[6, 2, 0], [0, 4, 0], [3, 0, 9]])
    >>> group_scores(score(confusion, np.arange(3)), ["thing", "thing", "stuff"])["stuff"]
    Ratios(accuracy=0.75, miou=0.75)
    """
    members = {group: np.array([name == group for name in groups]) for group in dict.fromkeys(groups)}
    return {g: _ratios(scores.agree[of], scores.pixels[of], scores.iou[of]) for g, of in members.items()}


def published_group_scores(confusion: np.ndarray, assignment: np.ndarray, groups: Sequence[str]) -> dict[str, Ratios]:
    """Group scores by the arithmetic of PiCIE's published code, to compare with its figures.

    The published code reorders the rows of the confusion matrix by cluster, and then selects the
    block [group, group] as if they were still ordered by class. A block therefore mixes classes of
    both groups, and errors between blocks are not counted. Scores over all classes are not
    affected, because the diagonal stays the same. Prefer `group_scores` for anything else.

    Args:
        confusion: (C, C) pixel counts.
        assignment: (C,) class of each cluster, a permutation.
        groups: the group of each of the C classes.

    >>> published_group_scores(np.array([[0, 8], [6, 2]]), np.array([1, 0]), ["thing", "stuff"])["thing"]
    Ratios(accuracy=1.0, miou=1.0)
    """
    reordered = confusion[assignment]
    ratios = {}
    for group in dict.fromkeys(groups):
        members = np.flatnonzero([name == group for name in groups])
        block = score(reordered[np.ix_(members, members)], np.arange(len(members)))
        ratios[group] = Ratios(block.accuracy, block.miou)
    return ratios
