"""Scores near the borders between classes, which the scores of whole images hardly show.

The boundary accuracy is the pixel accuracy within a few pixels of a border between two classes,
in the labels at the size at which they are scored. Borders with ignored pixels do not count. The
matching of clusters to classes is that of all pixels.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from picie.data.base import UNMATCHED
from picie.runtime import distributed
from picie.scoring.metrics import confusion_matrix

RADIUS = 3
"""Largest distance in pixels, along rows and columns, of a border's other side."""


def near_borders(label: np.ndarray, ignore: int, radius: int = RADIUS) -> np.ndarray:
    """Return (H, W) whether a labelled pixel has another class within `radius` pixels.

    The distance is counted along rows and columns, so the surrounding is a square.

    >>> near_borders(np.array([[0, 0, 0, 1, 255]]), ignore=255, radius=1).tolist()
    [[False, False, True, True, False]]
    """
    labelled, side = label != ignore, 2 * radius + 1
    classes = label.astype(np.int64)
    top = classes.max(initial=0) + 1
    highest = ndimage.maximum_filter(np.where(labelled, classes, -1), side, mode="nearest")
    lowest = ndimage.minimum_filter(np.where(labelled, classes, top), side, mode="nearest")
    near: np.ndarray = labelled & (highest != lowest)
    return near


def without_interior(label: np.ndarray, ignore: int) -> np.ndarray:
    """Return `label` (H, W) with all pixels ignored that are not near a border between classes."""
    return np.where(near_borders(label, ignore), label, ignore)


class BorderCounts:
    """Counts pixels near borders by class and cluster.

    Args:
        n_classes: C.
        k: number of clusters, K.
        ignore: the label of pixels without a class.
    """

    def __init__(self, n_classes: int, k: int, ignore: int) -> None:
        self._n_classes, self._k, self._ignore = n_classes, k, ignore
        self._counts = np.zeros((n_classes, k), np.int64)

    def add(self, label: np.ndarray, clusters: np.ndarray) -> None:
        """Count the pixels of an image: its label and clusters, (H, W) each."""
        near = without_interior(label, self._ignore)
        self._counts += confusion_matrix(near, clusters, self._n_classes, self._k, self._ignore)

    def total(self) -> np.ndarray:
        """Return (C, K) counts over all images and processes."""
        return np.asarray(sum(distributed.all_gather_object(self._counts)))


def boundary_accuracy(counts: np.ndarray, assignment: np.ndarray) -> float:
    """Return the accuracy of `counts` (C, K) under an `assignment` (K,); NaN without pixels.

    >>> boundary_accuracy(np.array([[3, 1], [0, 4]]), np.array([0, 1]))
    0.875
    """
    total = int(counts.sum())
    matched = np.flatnonzero(assignment != UNMATCHED)
    return float(counts[assignment[matched], matched].sum() / total) if total else float("nan")
