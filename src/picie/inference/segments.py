"""What the values of a label map mean: segments, each with a name, a colour and the clusters that make it up.

Nothing here knows of networks or files of runs; every change gives new `Segments`, or raises and leaves the old ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from picie.config import read_toml
from picie.data.base import UNMATCHED, ClassMap
from picie.display.colors import is_hex, palette, rgb_to_hex
from picie.errors import InputError, nearest

_AUTOMATIC = re.compile(r"cluster \d+(\.\d+)*")
_LONGEST = 200  # characters of a name
Reference = int | str
"""A segment, by its value or by its name."""


@dataclass(frozen=True)
class Segments:
    """V segments made of K clusters.

    Attributes:
        names: V names, by value; no two are equal.
        colors: V colours as "#rrggbb".
        assignment: (K,) each cluster's value; a value without a cluster is a class that nothing is predicted as.
        user_defined: whether a person had a say in them; then they go before the names of an evaluation.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    assignment: tuple[int, ...]
    user_defined: bool = False

    @staticmethod
    def plain(k: int) -> Segments:
        """Each of `k` clusters by its number."""
        return Segments(tuple(f"cluster {i}" for i in range(k)), tuple(map(rgb_to_hex, palette(k))), tuple(range(k)))

    @staticmethod
    def matched(classes: ClassMap, assignment: np.ndarray) -> Segments:
        """The `classes`, then the clusters that are UNMATCHED in `assignment` (K,), the matching of an evaluation."""
        left, colors = np.flatnonzero(assignment == UNMATCHED), palette(len(assignment))
        values = assignment.copy()
        values[left] = len(classes) + np.arange(len(left))
        own = [f"cluster {i}" for i in left]
        names = (*classes.names, *(f"{name} (no class)" if name in classes.names else name for name in own))
        return Segments(names, (*classes.colors, *(rgb_to_hex(colors[i]) for i in left)), tuple(values.tolist()))

    @staticmethod
    def of(state: Mapping[str, Any]) -> Segments:
        """What `state` gave."""
        return Segments(tuple(state["names"]), tuple(state["colors"]), tuple(state["assignment"]), state["user_defined"])

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        lists = {key: list(getattr(self, key)) for key in ("names", "colors", "assignment")}
        return {**lists, "user_defined": self.user_defined}

    def __len__(self) -> int:
        return len(self.names)

    def clusters(self, value: int) -> list[int]:
        """The clusters of a segment, rising."""
        return [cluster for cluster, own in enumerate(self.assignment) if own == value]

    def find(self, reference: Reference) -> int:
        """The value of a segment. Raises `InputError` for a number or name that is not there."""
        text = str(reference).strip()
        if re.fullmatch(r"[0-9]+", text):
            if int(text) >= len(self):
                raise InputError(f"{text}: no such segment; they are 0..{len(self) - 1}")
            return int(text)
        if text not in self.names:
            raise InputError(f"{text!r}: no segment of that name; {nearest(text, self.names)}")
        return self.names.index(text)

    def renamed(self, changes: Mapping[Reference, tuple[str, str]]) -> Segments:
        """Other names and colours.

        Args:
            changes: segment -> (name, "#rrggbb"), where "" keeps what is there.
        """
        names, colors = list(self.names), list(self.colors)
        seen: set[int] = set()
        for reference, (name, color) in changes.items():
            value = self.find(reference)
            if value in seen:
                raise InputError(f"{reference}: is named twice; name each segment once")
            seen.add(value)
            names[value], colors[value] = check_name(name) if name else names[value], check_color(color or colors[value])
        return replace(self, names=tuple(names), colors=tuple(colors), user_defined=True)

    def merged(self, groups: Sequence[tuple[Iterable[Reference], str, str]]) -> Segments:
        """Several segments as one, which takes the place of the lowest of them; the values after it move up.

        Args:
            groups: (segments, name, "#rrggbb") of each; where name or colour is "", that of the first segment listed stays.
        """
        names, colors, target = list(self.names), list(self.colors), np.arange(len(self))
        taken: set[int] = set()
        for references, name, color in groups:
            values = list(dict.fromkeys(self.find(reference) for reference in references))
            if len(values) < 2:
                raise InputError(f"--merge of {', '.join(map(str, references))}: give two segments or more")
            if taken & set(values):
                raise InputError(f"{self.names[min(taken & set(values))]!r}: is merged twice; list it once")
            taken |= set(values)
            lowest = min(values)
            target[values] = lowest
            names[lowest] = check_name(name) if name else self.names[values[0]]
            colors[lowest] = check_color(color or self.colors[values[0]])
        kept = np.flatnonzero(target == np.arange(len(self)))
        moved = np.searchsorted(kept, target)
        return Segments(
            tuple(names[v] for v in kept), tuple(colors[v] for v in kept), tuple(int(moved[v]) for v in self.assignment), True
        )

    def split(self, value: int, parts: Sequence[int], k: int) -> Segments:
        """The segment `value` in n parts: the first in its place, the others as the last values.

        Args:
            value: the segment.
            parts: of each of its clusters, one after the other, and of each cluster from the old K on, its part in 0..n-1.
            k: number of clusters from now on.
        """
        n = max(parts) + 1
        if not self.user_defined and self == Segments.plain(len(self.assignment)):
            return Segments.plain(k)
        values = [value, *range(len(self), len(self) + n - 1)]
        assignment = [*self.assignment, *[0] * (k - len(self.assignment))]
        changed = [*self.clusters(value), *range(len(self.assignment), k)]
        for cluster, part in zip(changed, parts, strict=True):
            assignment[cluster] = values[part]
        named = [f"{self.names[value]}.{i + 1}" for i in range(n)]
        names = [*self.names, *named[1:]]
        names[value] = named[0]
        spare = [color for color in map(rgb_to_hex, palette(len(self) + n)) if color not in self.colors]
        return Segments(tuple(names), (*self.colors, *spare[: n - 1]), tuple(assignment), True)

    def checked(self) -> Segments:
        """Itself. Raises `InputError` if two segments have one name."""
        for name in self.names:
            same = [value for value, other in enumerate(self.names) if other == name]
            if len(same) > 1:
                listed = ",".join(map(str, same))
                raise InputError(f"{name!r}: is the name of {len(same)} segments; merge them: --merge {listed}='{name}'")
        return self


def joint_name(names: Sequence[str]) -> str:
    """A name for segments that are merged unasked: their given names, joined; without any, the first.

    >>> joint_name(["cluster 1", "road", "kerb"])
    'road + kerb'
    """
    given = [name for name in names if not _AUTOMATIC.fullmatch(name)]
    return " + ".join(given) or names[0]


def check_name(name: str) -> str:
    """`name` without spaces around it. Raises `InputError` if it is empty, too long, a number, or cannot be printed."""
    name = name.strip()
    if len(name) > _LONGEST:
        raise InputError(f"{name[:20]!r}...: is a name of {len(name)} characters; give one of at most {_LONGEST}")
    if not name or not name.isprintable() or re.fullmatch(r"[0-9]+", name):
        raise InputError(f"{name!r}: is no name; give a word or more in one line, not a number alone")
    return name


def check_color(color: str) -> str:
    """`color` in small letters. Raises `InputError` if it is no "#rrggbb"."""
    if not is_hex(color):
        raise InputError(f"{color!r}: is no colour; write #rrggbb, e.g. #0000ff")
    return color.lower()


def write_file(path: Path, segments: Segments, clusters: str) -> None:
    """Write `segments` as TOML that a person can edit and `read_file` reads; `clusters` is a fingerprint of the clusters."""
    rows = [
        {"name": name, "color": color, "clusters": segments.clusters(value)}
        for value, (name, color) in enumerate(zip(segments.names, segments.colors, strict=True))
    ]
    path.write_text(tomli_w.dumps({"k": len(segments.assignment), "of": clusters, "segments": rows}), "utf-8")


def read_file(path: Path, k: int, clusters: str) -> Segments:
    """The segments in a file, for `k` clusters of the fingerprint `clusters`; those that it does not list follow by number.

    Raises:
        InputError: not such a file, or one for another number of clusters.
    """
    content = read_toml(path)
    rows = content.get("segments")
    if set(content) - {"k", "of", "segments"} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: is no file of names; it holds k and [[segments]] with name, color and clusters")
    if content.get("k", k) != k:
        raise InputError(
            f"{path}: is for {content['k']} clusters, and the run has {k}; names belong to the clusters they were given to"
        )
    if content.get("of", clusters) != clusters:
        raise InputError(
            f"{path}: is for other clusters than the run has now (after --split, --k or training); without its line "
            "'of = ...' it is taken for these"
        )
    assignment, automatic = [-1] * k, Segments.plain(k)
    names: list[str] = []
    colors: list[str] = []
    for row in rows:
        clusters = row.get("clusters")
        if set(row) - {"name", "color", "clusters"} or not isinstance(row.get("name"), str) or not isinstance(clusters, list):
            raise InputError(f'{path}: segment {len(names)}: give name = "...", clusters = [...] and, if wanted, color')
        for cluster in clusters:
            if type(cluster) is not int or not 0 <= cluster < k or assignment[cluster] != -1:
                raise InputError(f"{path}: {row['name']!r}: cluster {cluster!r} is not in 0..{k - 1}, or listed twice")
            assignment[cluster] = len(names)
        own = automatic.colors[clusters[0]] if clusters else "#000000"
        names.append(check_name(row["name"]))
        colors.append(check_color(str(row.get("color", own))))
    for cluster in [c for c in range(k) if assignment[c] == -1]:
        assignment[cluster] = len(names)
        names.append(automatic.names[cluster])
        colors.append(automatic.colors[cluster])
    return Segments(tuple(names), tuple(colors), tuple(assignment), True)
