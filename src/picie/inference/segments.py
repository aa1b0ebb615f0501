"""The meaning of the values of a label map: segments with names, colours and clusters.

This module does not depend on networks or runs. `Segments` are immutable: a change returns new
ones or raises an error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from picie.config import read_toml
from picie.data.base import UNMATCHED, ClassMap
from picie.display.colors import is_hex, palette, rgb_to_hex
from picie.errors import InputError, nearest
from picie.runtime.output_paths import write_text

_AUTOMATIC = re.compile(r"cluster \d+(\.\d+)*")
_MAX_NAME = 200  # characters
_MAX_SEGMENTS = 4096  # of a file, if the run has fewer clusters
Reference = int | str
"""A segment, given by its name or by the number of one of its clusters.

Unlike values, cluster numbers do not change when other segments are merged.
"""


@dataclass(frozen=True)
class Segments:
    """V segments made of K clusters.

    Attributes:
        names: V different names, indexed by value.
        colors: V colours as "#rrggbb", indexed by value.
        assignment: (K,) the value of each cluster. A value without a cluster is a class that is
            never predicted.
        user_defined: whether a user changed them. If so, they take precedence over the names of an
            evaluation.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    assignment: tuple[int, ...]
    user_defined: bool = False

    @staticmethod
    def plain(k: int) -> Segments:
        """One segment for each of `k` clusters, named by its number."""
        return Segments(tuple(f"cluster {i}" for i in range(k)), tuple(map(rgb_to_hex, palette(k))), tuple(range(k)))

    @staticmethod
    def matched(classes: ClassMap, assignment: np.ndarray) -> Segments:
        """The `classes`, then one segment per cluster that is UNMATCHED in `assignment` (K,)."""
        unmatched, colors = np.flatnonzero(assignment == UNMATCHED), palette(len(assignment))
        values = assignment.copy()
        values[unmatched] = len(classes) + np.arange(len(unmatched))
        automatic = [f"cluster {i}" for i in unmatched]
        names = (*classes.names, *(f"{name} (no class)" if name in classes.names else name for name in automatic))
        return Segments(names, (*classes.colors, *(rgb_to_hex(colors[i]) for i in unmatched)), tuple(values.tolist()))

    @staticmethod
    def of(state: Mapping[str, Any]) -> Segments:
        """Return the segments that `state()` described."""
        return Segments(tuple(state["names"]), tuple(state["colors"]), tuple(state["assignment"]), state["user_defined"])

    @staticmethod
    def in_use(state: Mapping[str, Any], k: int) -> Segments:
        """The segments that a checkpoint predicts, whose clusters in use are `k`.

        They are those that a user named; otherwise the classes of its matching; otherwise one for
        each cluster.
        """
        matching, naming = state.get("matching"), state.get("naming")
        if naming is not None and (naming["segments"]["user_defined"] or matching is None):
            return Segments.of(naming["segments"])
        if matching is None:
            return Segments.plain(k)
        classes = ClassMap(tuple(matching["names"]), tuple(matching["colors"]), matching["ignore"])
        return Segments.matched(classes, np.array(matching["assignment"], dtype=np.int64))

    def state(self) -> dict[str, Any]:
        """The segments as plain values, for a checkpoint."""
        lists = {key: list(getattr(self, key)) for key in ("names", "colors", "assignment")}
        return {**lists, "user_defined": self.user_defined}

    def __len__(self) -> int:
        return len(self.names)

    def clusters(self, value: int) -> list[int]:
        """The clusters of a segment, in ascending order."""
        return [cluster for cluster, assigned in enumerate(self.assignment) if assigned == value]

    def members(self) -> list[list[int]]:
        """The clusters of every segment, by value, in ascending order."""
        members: list[list[int]] = [[] for _ in self.names]
        for cluster, value in enumerate(self.assignment):
            members[value].append(cluster)
        return members

    def find(self, reference: Reference) -> int:
        """The value of a segment.

        Raises `InputError` if there is no such name or cluster.
        """
        text, k = str(reference).strip(), len(self.assignment)
        if text in self.names:
            return self.names.index(text)
        if not re.fullmatch(r"[0-9]+", text):
            raise InputError(f"{text!r}: no segment of that name; {nearest(text, self.names)}")
        if len(text) > len(str(k)) or int(text) >= k:
            raise InputError(f"{text:.20}: no such cluster; they are 0..{k - 1}")
        return self.assignment[int(text)]

    def renamed(self, changes: Mapping[int, tuple[str, str]]) -> Segments:
        """Change names and colours.

        Args:
            changes: value -> (name, "#rrggbb"), where "" leaves the name or colour unchanged.

        Raises:
            InputError: a name or colour is not valid.
        """
        names, colors = list(self.names), list(self.colors)
        for value, (name, color) in changes.items():
            names[value], colors[value] = check_name(name) if name else names[value], check_color(color or colors[value])
        return replace(self, names=tuple(names), colors=tuple(colors), user_defined=True)

    def merged(self, groups: Sequence[tuple[Sequence[int], str, str]]) -> Segments:
        """Merge groups of segments.

        A merged segment takes the lowest value of its group; later values are renumbered.

        Args:
            groups: (values, name, "#rrggbb") for each group. "" uses the name or colour of the
                first segment listed.

        Raises:
            InputError: a segment is in two groups, or a name or colour is not valid.
        """
        names, colors, target = list(self.names), list(self.colors), np.arange(len(self))
        merged: set[int] = set()
        for values, name, color in groups:
            if merged & set(values):
                raise InputError(f"{self.names[min(merged & set(values))]!r}: is merged twice; list it once")
            merged |= set(values)
            lowest = min(values)
            target[list(values)] = lowest
            names[lowest] = check_name(name) if name else self.names[values[0]]
            colors[lowest] = check_color(color or self.colors[values[0]])
        remaining = np.flatnonzero(target == np.arange(len(self)))
        value_of = np.searchsorted(remaining, target)
        assignment = tuple(int(value_of[v]) for v in self.assignment)
        return Segments(tuple(names[v] for v in remaining), tuple(colors[v] for v in remaining), assignment, True)

    def split(self, value: int, parts: Sequence[int], k: int) -> Segments:
        """Split the segment `value` into n parts.

        The first part keeps its value; the others become the last values.

        Args:
            value: the segment.
            parts: the part, in 0..n-1, of each of its clusters in ascending order, then of each
                new cluster.
            k: the number of clusters after the split; the new clusters are those from the old K
                on.
        """
        n = max(parts) + 1
        if not self.user_defined and self == Segments.plain(len(self.assignment)):
            return Segments.plain(k)
        values = [value, *range(len(self), len(self) + n - 1)]
        assignment = [*self.assignment, *[0] * (k - len(self.assignment))]
        changed = [*self.clusters(value), *range(len(self.assignment), k)]
        for cluster, part in zip(changed, parts, strict=True):
            assignment[cluster] = values[part]
        part_names = [f"{self.names[value]}.{i + 1}" for i in range(n)]
        names = [*self.names, *part_names[1:]]
        names[value] = part_names[0]
        unused = [color for color in map(rgb_to_hex, palette(len(self) + n)) if color not in self.colors]
        return Segments(tuple(names), (*self.colors, *unused[: n - 1]), tuple(assignment), True)

    def checked(self) -> Segments:
        """Return the segments unchanged. Raises `InputError` if two of them have the same name."""
        (name, count), *_ = Counter(self.names).most_common(1)
        if count > 1:
            same = [self.clusters(value) for value, other in enumerate(self.names) if other == name]
            listed = ",".join(str(clusters[0]) if clusters else name for clusters in same)
            raise InputError(f"{name!r}: is the name of {count} segments; merge them by --merge {listed}='{name}'")
        return self


def joint_name(names: Sequence[str]) -> str:
    """Return the name of segments that are merged without a new name.

    It joins the names that users gave; if there are none, it is the first name.

    >>> joint_name(["cluster 1", "road", "kerb"])
    'road + kerb'
    """
    user_given = [name for name in names if not _AUTOMATIC.fullmatch(name)]
    return " + ".join(user_given) or names[0]


def check_name(name: str) -> str:
    """Return `name` without surrounding spaces.

    Raises `InputError` if it is empty, too long, a number, or not printable.
    """
    name = name.strip()
    if len(name) > _MAX_NAME:
        raise InputError(f"{name[:20]!r}...: the name has {len(name)} characters; give one of at most {_MAX_NAME}")
    if not name or not name.isprintable() or re.fullmatch(r"[0-9]+", name):
        raise InputError(f"{name!r}: is not a valid name; give one or more words in one line, not only a number")
    return name


def check_color(color: str) -> str:
    """Return `color` in lower case. Raises `InputError` unless it has the form "#rrggbb"."""
    if not is_hex(color):
        raise InputError(f"{color!r}: is not a colour; write #rrggbb, e.g. #0000ff")
    return color.lower()


def write_file(path: Path, segments: Segments, clusters: str) -> None:
    """Write `segments` to a TOML file that a user can edit.

    `clusters` is a fingerprint of the run's clusters.
    """
    rows = [
        {"name": name, "color": color, "clusters": clusters}
        for name, color, clusters in zip(segments.names, segments.colors, segments.members(), strict=True)
    ]
    write_text(path, tomli_w.dumps({"k": len(segments.assignment), "of": clusters, "segments": rows}))


def read_file(path: Path, k: int, clusters: str) -> Segments:
    """Read a file of segments.

    Args:
        path: a file written by `write_file` or by a user. Clusters that it does not list are
            added, named by their numbers.
        k: the run's number of clusters.
        clusters: the fingerprint of the run's clusters.

    Raises:
        InputError: the file has other content, or was made for other clusters.
    """
    content = read_toml(path)
    rows = content.get("segments")
    if set(content) - {"k", "of", "segments"} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: is not a file of names; such a file has k, and [[segments]] with name, color and clusters")
    if len(rows) > max(_MAX_SEGMENTS, k):
        raise InputError(f"{path}: lists {len(rows)} segments; list at most {max(_MAX_SEGMENTS, k)}")
    if content.get("k", k) != k:
        raise InputError(
            f"{path}: was made for {content['k']} clusters, and the run has {k}; names are valid only for their own clusters"
        )
    if content.get("of", clusters) != clusters:
        raise InputError(
            f"{path}: was made for other clusters than the run has now (after --split, --k or training); remove its line "
            "'of = ...' to use it for these"
        )
    assignment, automatic = [-1] * k, Segments.plain(k)
    names: list[str] = []
    colors: list[str] = []
    for row in rows:
        own = row.get("clusters")
        if set(row) - {"name", "color", "clusters"} or not isinstance(row.get("name"), str) or not isinstance(own, list):
            raise InputError(f'{path}: segment {len(names)}: give name = "...", clusters = [...] and optionally color')
        for cluster in own:
            if type(cluster) is not int or not 0 <= cluster < k or assignment[cluster] != -1:
                raise InputError(f"{path}: {row['name']!r}: cluster {cluster!r} is not in 0..{k - 1}, or is listed twice")
            assignment[cluster] = len(names)
        default = automatic.colors[own[0]] if own else "#000000"
        names.append(check_name(row["name"]))
        colors.append(check_color(str(row.get("color", default))))
    for cluster in [c for c in range(k) if assignment[c] == -1]:
        assignment[cluster] = len(names)
        names.append(automatic.names[cluster])
        colors.append(automatic.colors[cluster])
    return Segments(tuple(names), tuple(colors), tuple(assignment), True)
