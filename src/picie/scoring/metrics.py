"""From counts to scores: confusion, matching, IoU. Pure functions; counts come first and ratios last.

A confusion matrix is (C, K): rows are classes and stay so, columns are clusters. Matching moves columns to class order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from picie.data.base import UNMATCHED


def confusion_matrix(labels: np.ndarray, clusters: np.ndarray, n_classes: int, k: int, ignore: int) -> np.ndarray:
    """(C, K) int64 pixel counts of `labels` and `clusters`, equal shapes; pixels labelled `ignore` are left out.

    >>> confusion_matrix(np.array([0, 0, 1, 255]), np.array([2, 2, 0, 1]), 2, 3, 255).tolist()
    [[0, 0, 2], [1, 0, 0]]
    """
    kept = labels != ignore
    joint = labels[kept].astype(np.int64) * k + clusters[kept].astype(np.int64)
    return np.bincount(joint, minlength=n_classes * k).reshape(n_classes, k)


def match_one_to_one(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """(K,) int64: each cluster's class, or UNMATCHED; the Hungarian assignment that maximises agreeing pixels.

    With more clusters than classes the rest stays unmatched; with fewer, some classes are never predicted. A class without
    labelled pixels is matched to no cluster. The column `void`, if there is one, holds pixels without a prediction and is
    never matched.

    >>> match_one_to_one(np.array([[0, 9, 1], [5, 0, 4]])).tolist()
    [1, 0, -1]
    """
    return _best_pairs(confusion, void, confusion.sum(1) > 0)


def match_one_to_one_iou(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """As `match_one_to_one`, but the assignment that maximises the sum of the pairs' IoU: small classes count as large ones.

    >>> confusion = np.array([[10, 8], [1, 0]])
    >>> match_one_to_one(confusion).tolist(), match_one_to_one_iou(confusion).tolist()
    ([0, 1], [1, 0])
    """
    union = confusion.sum(1, keepdims=True) + confusion.sum(0) - confusion
    return _best_pairs(confusion / np.maximum(union, 1), void, confusion.sum(1) > 0)


def match_many_to_one(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """(K,) int64: the class that most of a cluster's labelled pixels have; UNMATCHED without any, and for `void`.

    >>> match_many_to_one(np.array([[0, 9, 5, 0], [5, 0, 4, 0]])).tolist()
    [1, 0, 0, -1]
    """
    return _without(np.where(confusion.any(0), confusion.argmax(0), UNMATCHED), void)


def match_identity(confusion: np.ndarray, void: int | None = None) -> np.ndarray:
    """(K,) int64: the values are class indices already; those above the last class, and `void`, are UNMATCHED.

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
    """The assignment of the largest sum of `gain` (C, K) among the `labelled` (C,) classes.

    A class without labelled pixels gains nothing from any cluster. It is left out, or a coin would decide whether it is matched
    to an empty cluster and stays out of the mean IoU, or to a full one and counts there as 0.
    """
    rows, columns = np.flatnonzero(labelled), np.flatnonzero(np.arange(gain.shape[1]) != void)
    classes, pairs = linear_sum_assignment(gain[np.ix_(rows, columns)], maximize=True)
    assignment = np.full(gain.shape[1], UNMATCHED, dtype=np.int64)
    assignment[columns[pairs]] = rows[classes]
    return assignment


def _without(assignment: np.ndarray, void: int | None) -> np.ndarray:
    return np.where(np.arange(len(assignment)) == void, UNMATCHED, assignment)


class Ratios(NamedTuple):
    """Pixel accuracy and mIoU of some classes, in [0, 1]; NaN where no pixel is theirs."""

    accuracy: float
    miou: float


@dataclass(frozen=True)
class Scores:
    """What a matched confusion matrix comes to; ratios in [0, 1], NaN where a ratio has no meaning.

    Attributes:
        accuracy: agreeing pixels over labelled pixels.
        miou: mean of `iou` over the classes that occur in labels or predictions.
        iou: (C,) intersection over union.
        class_accuracy: (C,) recall of each class.
        pixels: (C,) labelled pixels.
        agree: (C,) those of them that are predicted as their class.
    """

    accuracy: float
    miou: float
    iou: np.ndarray
    class_accuracy: np.ndarray
    pixels: np.ndarray
    agree: np.ndarray


def score(confusion: np.ndarray, assignment: np.ndarray) -> Scores:
    """Scores of a (C, K) `confusion` under `assignment` (K,); pixels of unmatched clusters count as errors.

    >>> round(score(np.array([[3, 1], [0, 4]]), np.array([0, 1])).miou, 3)
    0.775
    """
    n_classes = len(confusion)
    matched = np.zeros((n_classes, n_classes + 1), dtype=np.int64)  # the last column: predicted as no class
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
    """Accuracy over the pixels, and mean IoU over the classes, of each group; `groups` names the group of each class.

    The rows of the group count with all their columns, and an IoU is that of the whole: a stuff pixel taken for a thing
    costs both groups. So accuracy over all classes lies between those of the groups, and so does mIoU.

    >>> confusion = np.array([[6, 2, 0], [0, 4, 0], [3, 0, 9]])
    >>> group_scores(score(confusion, np.arange(3)), ["thing", "thing", "stuff"])["stuff"]
    Ratios(accuracy=0.75, miou=0.75)
    """
    members = {group: np.array([name == group for name in groups]) for group in dict.fromkeys(groups)}
    return {g: _ratios(scores.agree[of], scores.pixels[of], scores.iou[of]) for g, of in members.items()}


def published_group_scores(confusion: np.ndarray, assignment: np.ndarray, groups: Sequence[str]) -> dict[str, Ratios]:
    """The arithmetic of PiCIE's published code for things and stuff, to compare with its figures; not what they should be.

    Rows are moved to cluster order, the row of a class to the index of its cluster, and the block [group, group] is cut out as
    if rows were still in class order. So a block mixes classes of both groups, and errors across blocks are not counted. The
    diagonal stays the diagonal, which is why scores over all classes come out the same.

    Args:
        confusion: (C, C).
        assignment: (C,) a permutation: clusters and classes one to one.
        groups: C names.

    >>> published_group_scores(np.array([[0, 8], [6, 2]]), np.array([1, 0]), ["thing", "stuff"])["thing"]
    Ratios(accuracy=1.0, miou=1.0)
    """
    moved = confusion[assignment]
    found = {}
    for group in dict.fromkeys(groups):
        members = np.flatnonzero([name == group for name in groups])
        block = score(moved[np.ix_(members, members)], np.arange(len(members)))
        found[group] = Ratios(block.accuracy, block.miou)
    return found
