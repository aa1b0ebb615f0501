"""The standard label sets by name: their classes, and the meaning of stored values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from picie.data.base import ClassMap
from picie.data.cityscapes_classes import all_labels, train_id_labels
from picie.data.cocostuff_classes import FINE, UNUSED, coarse_labels, fine_labels
from picie.data.label_statistics import LabelStatistics
from picie.errors import InputError, nearest

_LAST_TRAIN_ID = 18  # the largest trainId of Cityscapes

LABELS: dict[str, Callable[[], tuple[ClassMap, np.ndarray]]] = {
    "cocostuff27": coarse_labels,
    "cocostuff15": partial(coarse_labels, "stuff"),
    "cocostuff12": partial(coarse_labels, "things"),
    "cocostuff171": fine_labels,
    "cityscapes27": all_labels,
    "cityscapes19": train_id_labels,
}


def named_labels(name: str) -> tuple[ClassMap, np.ndarray]:
    """The classes of a label set and the class of each stored value; needs no folder.

    >>> classes, lookup = named_labels("cityscapes27")
    >>> len(classes), lookup[[6, 7, 33, 255]].tolist()
    (27, [255, 0, 26, 255])

    Args:
        name: a key of `LABELS`, e.g. "cocostuff27".

    Returns:
        The classes, with ignore value 255, and a (256,) uint8 table: the class of each value in
        the published PNGs, 255 for all other values.

    Raises:
        InputError: unknown name.
    """
    if name not in LABELS:
        raise InputError(f"unknown label set {name!r}; {nearest(name, LABELS)}")
    return LABELS[name]()


def summarise_labels(name: str, lookup: np.ndarray, seen: LabelStatistics) -> tuple[dict[str, Any], list[str]]:
    """Summarise the values `seen` in labels, and warn if the ids fit another numbering.

    Args:
        name: a key of `LABELS`.
        lookup: (256,) table as in `named_labels`.
        seen: counts of the stored values.
    """
    values, warnings = set(seen.counts) - {255}, []
    if name.startswith("cityscapes") and values and max(values) <= _LAST_TRAIN_ID:
        warnings.append(
            f"all values are in 0..{_LAST_TRAIN_ID}: these look like trainIds (*_labelTrainIds.png), but {name} expects label "
            "ids (*_labelIds.png)"
        )
    never = sorted(values & UNUSED)
    if name.startswith("cocostuff") and never:
        warnings.append(
            f"value {never[0]} ({FINE[never[0]]}) occurs, which COCO-Stuff never annotated: are the ids numbered "
            "contiguously? They must be COCO's ids minus one"
        )
    return seen.summary(np.flatnonzero(lookup == 255).tolist()), warnings


def to_classes(raw: np.ndarray, lookup: np.ndarray, last: int, where: str | Path) -> np.ndarray:
    """Map stored values to classes.

    Args:
        raw: (H, W) integers.
        lookup: (256,) table as in `named_labels`.
        last: the highest id; 0..last and 255 are valid.
        where: the file, for the error message.

    Returns:
        (H, W) uint8, classes or 255.

    Raises:
        InputError: a value is not an id.
    """
    check_values(raw, last, where)
    classes: np.ndarray = lookup[raw]
    return classes


def check_values(raw: np.ndarray, last: int, where: str | Path) -> None:
    """Raise `InputError` unless all values of `raw` are ids, 0..last, or 255 (unlabelled)."""
    wrong = raw[((raw < 0) | (raw > last)) & (raw != 255)]
    if wrong.size:
        raise InputError(
            f"{where}: value {int(wrong[0])} is not a label id (0..{last}, 255: none); is it a label map of another dataset?"
        )
