"""What a dataset is: images by index, labels only on request, and the classes that the labels name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from picie.display.colors import is_hex
from picie.errors import InputError

UNMATCHED = -1
"""In an assignment of clusters to classes: the cluster has no class."""


class MissingSplitError(InputError):
    """A dataset's folder has no such split."""


@dataclass(frozen=True)
class ClassMap:
    """The classes of a labelled dataset; the index in `names` is the value in a label map.

    Attributes:
        names: C class names, in label order.
        colors: C colours as "#rrggbb".
        ignore: the label value that marks pixels without a class; they are never scored.
        groups: C names of groups, e.g. "things" and "stuff", which are scored apart, too; empty: none.

    Raises:
        InputError: no class, names and colours or groups of different number, a colour that is no "#rrggbb", a repeated
            name, or an ignore value that is also a class.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    ignore: int = 255
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("classes: no class names given; list at least one in names")
        if len(self.names) != len(self.colors):
            raise InputError(f"classes: {len(self.names)} names but {len(self.colors)} colors; give one color for each name")
        if self.groups and len(self.names) != len(self.groups):
            raise InputError(f"classes: {len(self.names)} names but {len(self.groups)} groups; give one group for each name")
        for color in self.colors:
            if not is_hex(color):
                raise InputError(f"classes: color {color!r} is not of the form '#rrggbb'")
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise InputError(f"classes: name {twice[0]!r} occurs twice; class names must differ")
        if 0 <= self.ignore < len(self.names):
            raise InputError(
                f"classes: ignore = {self.ignore} is also the class {self.names[self.ignore]!r}; "
                f"choose a value outside 0..{len(self.names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.names)


@runtime_checkable
class Dataset(Protocol):
    """One split of a dataset. Indices are stable: the order of images depends on their names alone."""

    classes: ClassMap | None
    """The classes of its labels; None where it has none."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """The image's name for messages and output files: its path below the root, with '/' between the parts."""
        ...

    def image(self, index: int) -> Image.Image:
        """The image, mode RGB, upright. Raises `UnreadableImageError` where it cannot be decoded."""
        ...

    def label(self, index: int) -> np.ndarray:
        """The label map, (H, W) integers of the image's own size, classes or ignore; opened only to evaluate."""
        ...
