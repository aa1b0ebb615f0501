"""Colours: the palette of label maps, and the CIELAB colour space."""

from __future__ import annotations

import re
from functools import cache

import numpy as np

Color = tuple[int, int, int]
"""(R, G, B) in 0..255."""

# sRGB, D65
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])
_STEPS = np.arange(0, 256, 15)  # values of each channel of the candidate colours
_LIGHTNESS = (30, 88)  # visible on black and on white
_CHROMA = 75  # not too vivid over a photo


def is_hex(color: str) -> bool:
    """Whether `color` has the form "#rrggbb"."""
    return re.fullmatch(r"#[0-9a-fA-F]{6}", color) is not None


def hex_to_rgb(color: str) -> Color:
    """Convert "#rrggbb" to (R, G, B) in 0..255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def rgb_to_hex(color: Color) -> str:
    """Convert (R, G, B) in 0..255 to "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def srgb_to_lab(colors: np.ndarray) -> np.ndarray:
    """Convert sRGB `colors` (n, 3) in [0, 1] to CIELAB (n, 3), with white point D65.

    >>> srgb_to_lab(np.ones((1, 3))).round(0).tolist()
    [[100.0, 0.0, 0.0]]
    """
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    relative = linear @ _TO_XYZ.T / _WHITE
    f = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1) + 0.0


@cache
def palette(n: int) -> tuple[Color, ...]:
    """`n` colours, each as far as possible (in CIELAB) from those before it.

    A longer palette begins with a shorter one.

    >>> palette(2) == palette(3)[:2]
    True
    """
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = srgb_to_lab(grid / 255)
    usable = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (np.hypot(lab[:, 1], lab[:, 2]) < _CHROMA)
    grid, lab = grid[usable], lab[usable]
    # start with a blue
    chosen = [int(np.square(lab - srgb_to_lab(np.array([[40, 90, 200]]) / 255)).sum(1).argmin())]
    distance = np.square(lab - lab[chosen[0]]).sum(1)
    while len(chosen) < n:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(lab - lab[chosen[-1]]).sum(1))
    return tuple((int(r), int(g), int(b)) for r, g, b in grid[chosen[:n]])
