"""Count the stored values of label maps, and detect values that are probably misinterpreted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from picie.data.formats import open_with_pillow

_MAX_LISTED = 12
_BINARY = 2  # number of classes in a binary mask
_BACKGROUND = {"background", "other", "others", "unknown", "unlabeled", "unlabelled", "void"}  # names for value 0
_FREQUENT = 0.25  # minimum share of ignored pixels that is reported if a class does not occur


@dataclass
class LabelStatistics:
    """Counts the stored values of label files; may be used by several threads.

    Attributes:
        counts: number of pixels of each stored value.
        n_files: number of files.
    """

    counts: Counter[int] = field(default_factory=Counter)
    n_files: int = 0
    _files_with_zero: int = 0
    _palettes: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    _conflict: str = ""
    _lock: Any = field(default_factory=threading.Lock)

    def add(self, stored: np.ndarray, path: Path) -> None:
        """Count the values of the file at `path`."""
        values, counts = np.unique(stored, return_counts=True)
        colors = _palette_of(path, values)
        with self._lock:
            self.n_files += 1
            self._files_with_zero += int(0 in values)
            self.counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            for value, color in colors.items():
                if self._palettes.setdefault(value, color) != color and not self._conflict:
                    self._conflict = f"{path}: value {value} has another colour than in other files"

    def summary(self, ignored: Iterable[int]) -> dict[str, Any]:
        """For JSON: the percentage of pixels with one of the `ignored` values, and all values."""
        share = sum(self.counts[value] for value in ignored) / max(1, self.counts.total())
        return {"ignored": round(100 * share, 2), "values": sorted(self.counts), "files": self.n_files}

    def share(self, value: int) -> float:
        """Share of the pixels with a stored value, in [0, 1]."""
        return self.counts[value] / max(1, self.counts.total())

    def _zero_may_be_void(self, names: Sequence[str]) -> bool:
        """Whether value 0 could mark pixels without a class, which most annotated images have."""
        return self._files_with_zero == self.n_files and len(names) > _BINARY and names[0].lower() not in _BACKGROUND

    def warnings(self, names: Sequence[str], values: Sequence[int] | None, ignore: int) -> list[str]:
        """Warnings about values that probably do not mean what was stated, one line each.

        Args:
            names: the classes.
            values: the stored value of each class; None if not stated: the class index.
            ignore: the stored value of pixels without a class.
        """
        lines = []
        stored = values or range(len(names))
        missing = [name for name, value in zip(names, stored, strict=True) if not self.counts[value]]
        ignored = self.share(ignore)
        binary = len(names) == _BINARY and set(self.counts) <= {stored[0], ignore}
        if missing and ((binary and ignored) or ignored >= _FREQUENT):
            advice = f" if {ignore} means {missing[0]!r}, set values = [0, {ignore}] in classes.toml" if binary else ""
            lines.append(
                f"class {missing[0]!r} does not occur, and {100 * ignored:.1f} % of the pixels are ignored "
                f"(value {ignore});{advice or ' check ignore and the values of the labels'}"
            )
        elif values is None and not self.counts[0] and self.counts and len(names) > 1:
            lines.append(
                f"value 0 ({names[0]!r}) does not occur, the labels have {listing(self.counts)}; "
                "if they count from 1, state their values in classes.toml: values = [...]"
            )
        elif values is None and missing and not ignored and self._zero_may_be_void(names):
            lines.append(
                f"class {missing[0]!r} does not occur, no pixel is ignored (value {ignore}), and every file has value 0, which "
                f"means {names[0]!r}: if 0 marks pixels without a class and the ids count from 1, they fit another numbering; "
                f"set ignore = 0 and values = {from_one(len(names))} in classes.toml"
            )
        if self._conflict:
            lines.append(f"{self._conflict}; the stored values are used, not the colours: do they mean the same in all files?")
        return lines


def from_one(n: int) -> str:
    """The list of 1 to `n`, shortened.

    >>> from_one(2), from_one(27)
    ('[1, 2]', '[1, ..., 27]')
    """
    return f"[1, ..., {n}]" if n > 3 else f"{list(range(1, n + 1))}"


def listing(values: Iterable[int]) -> str:
    """E.g. "0..3, 7, 255"."""
    ranges: list[list[int]] = []
    for value in sorted(int(v) for v in values):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    parts = [f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}..{b}" for a, b in ranges]
    return ", ".join(parts[:_MAX_LISTED]) + (", ..." if len(parts) > _MAX_LISTED else "")


def _palette_of(path: Path, values: np.ndarray) -> dict[int, tuple[int, int, int]]:
    """The palette colours of those `values` in a palette file; empty for other files."""
    try:
        with open_with_pillow(path) as image:
            colors = image.getpalette() if image.mode == "P" else None
    except Exception:  # e.g. a .npy file
        return {}
    if not colors:
        return {}
    used = [value for value in values.tolist() if 3 * value + 2 < len(colors)]
    return {value: (colors[3 * value], colors[3 * value + 1], colors[3 * value + 2]) for value in used}
