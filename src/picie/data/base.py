"""The dataset interface: images by index, labels on request, and the classes of the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from picie.display.colors import is_hex
from picie.errors import InputError

UNMATCHED = -1
"""Marks a cluster without a class in an assignment of clusters to classes."""


class MissingSplitError(InputError):
    """The dataset's folder does not have the requested split."""


@dataclass(frozen=True)
class ClassMap:
    """The classes of a labelled dataset; the index in `names` is the value in a label map.

    Attributes:
        names: C class names, in label order.
        colors: C colours as "#rrggbb".
        ignore: label value of pixels without a class; they are never scored.
        groups: C group names, e.g. "things" and "stuff", which are also scored separately; empty:
            none.

    Raises:
        InputError: no class, a different number of names and colours or groups, a colour that is
            not "#rrggbb", a repeated name, or an ignore value that is also a class.
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
            repeated = sorted({n for n in self.names if self.names.count(n) > 1})
            raise InputError(f"classes: name {repeated[0]!r} occurs twice; class names must differ")
        if 0 <= self.ignore < len(self.names):
            raise InputError(
                f"classes: ignore = {self.ignore} is also the class {self.names[self.ignore]!r}; "
                f"choose a value outside 0..{len(self.names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.names)


@runtime_checkable
class Dataset(Protocol):
    """One split of a dataset.

    The order of images depends only on their names, so indices are stable.
    """

    classes: ClassMap | None
    """The classes of the labels; None if the split has no labels."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """Name of the image in messages and outputs: its path below the root, separated by '/'."""
        ...

    def image(self, index: int) -> Image.Image:
        """The image, mode RGB, upright. Raises `UnreadableImageError` if it cannot be decoded."""
        ...

    def label(self, index: int) -> np.ndarray:
        """The label map, (H, W) integers at the image's size: classes or the ignore value.

        For evaluation only.
        """
        ...
