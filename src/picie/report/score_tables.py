"""An evaluation as tables: a row for each class, and the confusion matrix before and after matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from picie.data.base import UNMATCHED
from picie.report.pictures import png_uri
from picie.scoring.evaluation import Evaluation

_MOST_CELLS = 40  # classes or clusters that a table of numbers can show; above, the matrix is a picture
_ACCENT = (31, 95, 191)


@dataclass(frozen=True)
class ClassRow:
    """A class in the table: ratios in [0, 1], None where a ratio has no meaning."""

    name: str
    color: str
    iou: float | None
    accuracy: float | None
    share: float
    pixels: int
    clusters: list[int]


def class_rows(result: Evaluation) -> list[ClassRow]:
    """One row for each class of `result`, in label order."""
    scores, total = result.scores, max(1, int(result.scores.pixels.sum()))
    return [
        ClassRow(
            name,
            color,
            _ratio(scores.iou[index]),
            _ratio(scores.class_accuracy[index]),
            float(scores.pixels[index]) / total,
            int(scores.pixels[index]),
            [int(i) for i in np.flatnonzero(result.assignment == index)],
        )
        for index, (name, color) in enumerate(zip(result.classes.names, result.classes.colors, strict=True))
    ]


def _ratio(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix to be shown: rows are classes, each shaded by the share of its own pixels.

    Attributes:
        title: what its columns are.
        columns: their names.
        rows: for each class its name and the cells as (share in [0, 1], pixels, whether the column is its own).
        picture: a heat map as a data URI instead of cells, where there are too many.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[float, int, bool]]]]
    picture: str | None


def confusion_matrices(result: Evaluation) -> list[Matrix]:
    """The confusion of `result` before matching, by cluster, and after, its columns moved to the order of the classes."""
    names, confusion, assignment = result.classes.names, result.confusion, result.assignment
    left = np.flatnonzero(assignment == UNMATCHED)
    own = [np.flatnonzero(assignment == index) for index in range(len(names))]
    merged = [confusion[:, clusters].sum(1) for clusters in own]
    after = np.stack([*merged, *(confusion[:, i] for i in left)], axis=1)
    columns = [name if len(clusters) else f"{name} (no cluster)" for name, clusters in zip(names, own, strict=True)]
    return [
        _matrix(
            "Before matching: clusters as they are numbered",
            names,
            [str(i) for i in range(result.confusion.shape[1])],
            confusion,
        ),
        _matrix(
            "After matching: each cluster in its class's column",
            names,
            [*columns, *(f"cluster {i}" for i in left)],
            after,
            True,
        ),
    ]


def _matrix(title: str, names: Sequence[str], columns: list[str], counts: np.ndarray, matched: bool = False) -> Matrix:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if max(counts.shape) > _MOST_CELLS:
        return Matrix(title, columns, [], _heat_map(shares))
    rows = [
        (name, [(float(shares[i, j]), int(counts[i, j]), matched and i == j) for j in range(counts.shape[1])])
        for i, name in enumerate(names)
    ]
    return Matrix(title, columns, rows, None)


def _heat_map(shares: np.ndarray) -> str:
    """(C, K) shares in [0, 1] as a picture, one pixel each, clear where they are 0."""
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _ACCENT
    pixels[..., 3] = np.sqrt(shares) * 255  # the root lets small shares be seen
    return png_uri(Image.fromarray(pixels, "RGBA"))
