"""Classes that a run was taught, matched to the classes of labels by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from picie.data.base import UNMATCHED, ClassMap
from picie.errors import InputError
from picie.inference.segments import Segments


@dataclass(frozen=True)
class ByName:
    """A matching that names give, without a look at the labels that are scored.

    Attributes:
        assignment: (K,) int64 class of each cluster, or UNMATCHED.
        source: where the names come from, for the protocol, e.g. "taught by 10 clicks a class".
    """

    assignment: np.ndarray
    source: str


def match_by_name(segments: Segments, classes: ClassMap, clicks: Mapping[str, int]) -> ByName:
    """Match each cluster to the class that has the name of its segment.

    Capital letters and surrounding spaces make no difference.

    Args:
        segments: the segments of the K clusters.
        classes: the classes of the labels.
        clicks: the number of clicks of each class that was taught.

    Raises:
        InputError: no segment has the name of a class.
    """
    known = {_plain(name): value for value, name in enumerate(classes.names)}
    value_of = np.array([known.get(_plain(name), UNMATCHED) for name in segments.names], dtype=np.int64)
    assignment = value_of[np.array(segments.assignment)]
    if (assignment == UNMATCHED).all():
        raise InputError(
            f"none of the taught classes ({_listed(segments.names)}) is a class of the labels ({_listed(classes.names)}); "
            "rename them with picie name, or score the clusters with --matching"
        )
    return ByName(assignment, taught_by(clicks.values()))


def taught_by(counts: Iterable[int]) -> str:
    """Describe the clicks of a run for the protocol.

    >>> taught_by([10, 10]), taught_by([3, 12, 5])
    ('taught by 10 clicks a class', 'taught by 3 to 12 clicks a class, 20 in all')
    """
    numbers = list(counts)
    if len(set(numbers)) == 1:
        return f"taught by {numbers[0]} clicks a class"
    return f"taught by {min(numbers)} to {max(numbers)} clicks a class, {sum(numbers)} in all"


def _plain(name: str) -> str:
    return name.strip().casefold()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
