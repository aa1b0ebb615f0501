"""The tables of an evaluation: scores by class, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from picie.data.base import UNMATCHED
from picie.report.pictures import png_uri
from picie.scoring.evaluation import Evaluation

_MAX_CELLS = 40  # rows or columns of a table of numbers; a larger matrix is shown as a picture
_ACCENT = (31, 95, 191)


@dataclass(frozen=True)
class ClassRow:
    """One class in the table. Ratios are in [0, 1], or None where they are not defined."""

    name: str
    color: str
    iou: float | None
    accuracy: float | None
    share: float
    pixels: int
    clusters: list[int]


def class_rows(result: Evaluation) -> list[ClassRow]:
    """One row per class of `result`, in label order."""
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
    """A confusion matrix for the page.

    Rows are classes; cells are shaded by their share of the row's pixels.

    Attributes:
        title: describes the columns.
        columns: the names of the columns.
        rows: for each class its name and its cells as (share in [0, 1], pixels, whether the column
            is matched to the class).
        picture: a heat map as a data URI, which replaces the rows if there are too many cells.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[float, int, bool]]]]
    picture: str | None


def confusion_matrices(result: Evaluation) -> list[Matrix]:
    """The confusion matrix of `result`, by cluster and in the order of the matched classes."""
    names, confusion, assignment = result.classes.names, result.confusion, result.assignment
    unmatched = np.flatnonzero(assignment == UNMATCHED)
    matched = [np.flatnonzero(assignment == index) for index in range(len(names))]
    merged = [confusion[:, clusters].sum(1) for clusters in matched]
    after = np.stack([*merged, *(confusion[:, i] for i in unmatched)], axis=1)
    columns = [name if len(clusters) else f"{name} (no cluster)" for name, clusters in zip(names, matched, strict=True)]
    return [
        _matrix(
            "Before matching: one column per cluster",
            names,
            [str(i) for i in range(result.confusion.shape[1])],
            confusion,
        ),
        _matrix(
            "After matching: clusters under the class they were matched to",
            names,
            [*columns, *(f"cluster {i}" for i in unmatched)],
            after,
            True,
        ),
    ]


def _matrix(title: str, names: Sequence[str], columns: list[str], counts: np.ndarray, matched: bool = False) -> Matrix:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if max(counts.shape) > _MAX_CELLS:
        return Matrix(title, columns, [], _heat_map(shares))
    rows = [
        (name, [(float(shares[i, j]), int(counts[i, j]), matched and i == j) for j in range(counts.shape[1])])
        for i, name in enumerate(names)
    ]
    return Matrix(title, columns, rows, None)


def _heat_map(shares: np.ndarray) -> str:
    """Draw (C, K) shares in [0, 1] with one pixel each, transparent at 0."""
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _ACCENT
    pixels[..., 3] = np.sqrt(shares) * 255  # the square root makes small shares visible
    return png_uri(Image.fromarray(pixels, "RGBA"))
