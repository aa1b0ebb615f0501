"""Pictures generated in memory, as a dataset: `data.name=benchmarks.in_memory:InMemory`."""

from __future__ import annotations

import functools
import re

import numpy as np
from PIL import Image

from benchmarks.pictures import CLASSES, picture
from picie.data.base import ClassMap
from picie.display.colors import palette, rgb_to_hex
from picie.errors import InputError

NAME = "benchmarks.in_memory:InMemory"

_DISTINCT = 32  # generated pictures; the others are these, shifted


class InMemory:
    """Labelled pictures whose number and size are stated by the split, e.g. "train-4096-480x640".

    Args:
        split: a name, the number of pictures, and their height and width in pixels.

    Raises:
        InputError: the split is not of this form.
    """

    def __init__(self, split: str) -> None:
        match = re.fullmatch(r"(\w+)-(\d+)-(\d+)x(\d+)", split)
        if match is None:
            raise InputError(f"split {split!r}: write a name, a number and a size, e.g. train-4096-480x640")
        self._n, self._size = int(match[2]), (int(match[3]), int(match[4]))
        self._first = 0 if match[1] == "train" else _DISTINCT  # other splits show other pictures
        names = tuple(f"class {i}" for i in range(CLASSES))
        self.classes = ClassMap(names, tuple(map(rgb_to_hex, palette(CLASSES))))

    def __len__(self) -> int:
        return self._n

    def name(self, index: int) -> str:
        """The number of the picture, as a name."""
        return f"{index:08d}"

    def image(self, index: int) -> Image.Image:
        """The picture, RGB."""
        return Image.fromarray(self._shifted(index, 0))

    def label(self, index: int) -> np.ndarray:
        """The classes of its pixels."""
        return self._shifted(index, 1)

    def _shifted(self, index: int, part: int) -> np.ndarray:
        copy, number = divmod(index, _DISTINCT)
        return np.roll(_drawn(self._first + number, self._size)[part], 7 * copy, axis=1)


@functools.lru_cache(maxsize=2 * _DISTINCT)
def _drawn(number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    photo, label = picture(number, size)
    return np.asarray(photo), np.asarray(label)
