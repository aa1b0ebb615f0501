"""From counts to scores: confusion, matching, IoU. Pure functions; counts come first and ratios last.

A confusion matrix is (C, K): rows are classes and stay so, columns are clusters. Matching moves columns to class order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

UNMATCHED = -1


def confusion_matrix(labels: np.ndarray, clusters: np.ndarray, n_classes: int, k: int, ignore: int) -> np.ndarray:
    """(C, K) int64 pixel counts of `labels` and `clusters`, equal shapes; pixels labelled `ignore` are left out.

    >>> confusion_matrix(np.array([0, 0, 1, 255]), np.array([2, 2, 0, 1]), 2, 3, 255).tolist()
    [[0, 0, 2], [1, 0, 0]]
    """
    kept = labels != ignore
    joint = labels[kept].astype(np.int64) * k + clusters[kept].astype(np.int64)
    return np.bincount(joint, minlength=n_classes * k).reshape(n_classes, k)


def match_one_to_one(confusion: np.ndarray) -> np.ndarray:
    """(K,) int64: each cluster's class, or UNMATCHED; the Hungarian assignment that maximises agreeing pixels.

    With more clusters than classes the rest stays unmatched; with fewer, some classes are never predicted.

    >>> match_one_to_one(np.array([[0, 9, 1], [5, 0, 4]])).tolist()
    [1, 0, -1]
    """
    classes, clusters = linear_sum_assignment(confusion, maximize=True)
    assignment = np.full(confusion.shape[1], UNMATCHED, dtype=np.int64)
    assignment[clusters] = classes
    return assignment


@dataclass(frozen=True)
class Scores:
    """What a matched confusion matrix comes to; ratios in [0, 1], NaN where a ratio has no meaning.

    Attributes:
        accuracy: agreeing pixels over labelled pixels.
        miou: mean of `iou` over the classes that occur in labels or predictions.
        iou: (C,) intersection over union.
        class_accuracy: (C,) recall of each class.
        pixels: (C,) labelled pixels.
    """

    accuracy: float
    miou: float
    iou: np.ndarray
    class_accuracy: np.ndarray
    pixels: np.ndarray


def score(confusion: np.ndarray, assignment: np.ndarray) -> Scores:
    """Scores of a (C, K) `confusion` under `assignment` (K,); pixels of unmatched clusters count as errors.

    >>> round(score(np.array([[3, 1], [0, 4]]), np.array([0, 1])).miou, 3)
    0.775
    """
    n_classes = len(confusion)
    matched = np.zeros((n_classes, n_classes + 1), dtype=np.int64)  # the last column: predicted as no class
    np.add.at(matched.T, np.where(assignment == UNMATCHED, n_classes, assignment), confusion.T)
    agree = np.diagonal(matched).astype(float)
    pixels, predicted = matched.sum(1), matched.sum(0)[:n_classes]
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = agree / (pixels + predicted - agree)
        recall = agree / pixels
        accuracy = float(agree.sum() / pixels.sum()) if pixels.sum() else float("nan")
    miou = float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")
    return Scores(accuracy, miou, iou, recall, pixels)
