"""Pictures that are read some rows at a time, so that memory does not grow with their height."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from PIL import Image

_PIXELS_AT_ONCE = 2**23  # pixels of the picture that are scaled at once: of 16 bits, about 150 MB

Rows = tuple[np.ndarray, np.ndarray | None]
"""(n, W, 3) uint8 RGB, and (n, W) bool, false where there is no data; None: data everywhere."""


class Raster(Protocol):
    """An upright RGB picture.

    Attributes:
        height: its height in pixels.
        width: its width in pixels.
    """

    height: int
    width: int

    def rows(self, top: int, bottom: int) -> Rows:
        """Return the rows from `top` up to, but not including, `bottom`."""
        ...


class Decoded:
    """A `Raster` of a picture in memory.

    Args:
        image: a picture of mode RGB.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.width, self.height = image.size

    def rows(self, top: int, bottom: int) -> Rows:
        """Return the rows from `top` up to, but not including, `bottom`."""
        return np.asarray(self.image.crop((0, top, self.width, bottom))), None


def scaled_rows(raster: Raster, size: tuple[int, int], top: int, bottom: int) -> Rows:
    """Return rows of a raster that is scaled to `size` (H, W) with antialiasing.

    The picture is scaled in parts of 8 megapixels. A smaller one is scaled at once, exactly as
    Pillow scales it; parts can differ from that by one grey level, because of rounding.

    Args:
        raster: the picture.
        size: (H, W) of the scaled picture.
        top: the first row of the scaled picture.
        bottom: the row after the last.
    """
    if size == (raster.height, raster.width):
        return raster.rows(top, bottom)
    step = raster.height / size[0]
    margin = math.ceil(max(1.0, step)) + 1
    at_once = max(1, int((_PIXELS_AT_ONCE / raster.width - 2 * margin) / step))
    if raster.height * raster.width <= _PIXELS_AT_ONCE:
        at_once = bottom - top
    parts, masks = [], []
    for start in range(top, bottom, at_once):
        stop = min(start + at_once, bottom)
        first = max(0, math.floor(start * step) - margin)
        last = min(raster.height, math.ceil(stop * step) + margin)
        pixels, valid = raster.rows(first, last)
        box = (0.0, start * step - first, float(raster.width), min(stop * step, raster.height) - first)
        shape = (size[1], stop - start)
        parts.append(np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR, box=box)))
        if valid is not None:
            masks.append(np.asarray(Image.fromarray(valid).resize(shape, Image.Resampling.NEAREST, box=box)))
    return np.concatenate(parts), np.concatenate(masks) if masks else None
