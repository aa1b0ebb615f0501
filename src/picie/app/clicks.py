"""The clicks that teach classes: their features, and the file for `picie teach`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from picie.inference.segments import check_name


@dataclass(frozen=True)
class TaughtPixel:
    """A pixel that the user has named.

    Attributes:
        picture: the path of the picture; "" if it was uploaded.
        x: the pixel's column.
        y: the pixel's row.
        name: the class.
        feature: (D,) of unit norm, on the CPU.
    """

    picture: str
    x: int
    y: int
    name: str
    feature: Tensor


class Clicks:
    """The clicks so far, in their order."""

    def __init__(self) -> None:
        self._pixels: list[TaughtPixel] = []

    def add(self, pixel: TaughtPixel) -> None:
        """Add a click. Raises `InputError` if its name cannot be a segment's."""
        check_name(pixel.name)
        self._pixels.append(pixel)

    def remove_last(self) -> None:
        """Remove the latest click, if there is one."""
        self._pixels = self._pixels[:-1]

    def counts(self) -> dict[str, int]:
        """The number of clicks of each class."""
        return dict(Counter(pixel.name for pixel in self._pixels))

    def features(self) -> tuple[Tensor, list[str]]:
        """(n, D) features and the n names."""
        return torch.stack([pixel.feature for pixel in self._pixels]), [pixel.name for pixel in self._pixels]

    def content(self) -> dict[str, list[list[Any]]]:
        """The clicks as `picie teach` reads them: {picture: [[x, y, name], ...]}.

        Those in uploaded pictures are left out, because their files are not known.
        """
        content: dict[str, list[list[Any]]] = {}
        for pixel in (pixel for pixel in self._pixels if pixel.picture):
            content.setdefault(pixel.picture, []).append([pixel.x, pixel.y, pixel.name])
        return content
