"""Colours: the palette of label maps, the CIELAB colour space, and simulated colour blindness."""

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
_LIGHTNESS = (30, 80)  # visible on black and on white
# not too vivid over a photo: full cyan, magenta and red hide what lies below them
_CHROMA, _RANGE, _SATURATION = 75, 140, 0.7  # _RANGE: from the weakest channel to the strongest
# Machado, Oliveira and Fernandes (2009), table 1, severity 1.0; they act on linear RGB.
_DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
DEFICIENCIES = tuple(_DEFICIENCIES)
"""The kinds of colour blindness that `simulated` knows."""
_SAFE = 12  # the first colours, which are chosen to differ for colour-blind people as well
_SIMULATED = 1.6  # weight of simulated distances among them; colours lose a dimension there

CONFIDENCE = ((32, 12, 74), (140, 41, 99), (229, 92, 48), (246, 215, 70))
"""Colours at equal steps from unsure to sure; lightness rises, so colour-blind people see it."""


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
    relative = _linear(colors) @ _TO_XYZ.T / _WHITE
    f = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1) + 0.0


def simulated(colors: np.ndarray, deficiency: str) -> np.ndarray:
    """Return sRGB `colors` (n, 3) in [0, 1] as colour-blind people see them, (n, 3) in [0, 1].

    Args:
        colors: the colours.
        deficiency: one of `DEFICIENCIES`.
    """
    linear: np.ndarray = (_linear(colors) @ np.array(_DEFICIENCIES[deficiency]).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _linear(colors: np.ndarray) -> np.ndarray:
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


@cache
def palette(n: int) -> tuple[Color, ...]:
    """`n` colours, each as far as possible (in CIELAB) from those before it.

    The first 12 also differ for colour-blind people. A longer palette begins with a shorter one.

    >>> palette(2) == palette(3)[:2]
    True
    """
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), axis=-1).reshape(-1, 3)
    lab, strongest, extent = srgb_to_lab(grid / 255), grid.max(1), np.ptp(grid, axis=1)
    usable = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (np.hypot(lab[:, 1], lab[:, 2]) < _CHROMA)
    usable &= (extent <= _RANGE) & (extent <= _SATURATION * strongest)
    grid, lab = grid[usable], lab[usable]
    seen = [srgb_to_lab(simulated(grid / 255, kind)) for kind in DEFICIENCIES]

    def distances(chosen: int, safe: bool) -> np.ndarray:
        plain: np.ndarray = np.linalg.norm(lab - lab[chosen], axis=1)
        all_kinds = [plain, *(_SIMULATED * np.linalg.norm(one - one[chosen], axis=1) for one in seen if safe)]
        smallest: np.ndarray = np.min(all_kinds, axis=0)
        return smallest

    # start with a blue
    chosen = [int(np.square(lab - srgb_to_lab(np.array([[60, 105, 190]]) / 255)).sum(1).argmin())]
    while len(chosen) < n:
        safe = len(chosen) < _SAFE
        if len(chosen) in {1, _SAFE}:
            distance = np.min([distances(one, safe) for one in chosen], axis=0)
        else:
            distance = np.minimum(distance, distances(chosen[-1], safe))
        chosen.append(int(distance.argmax()))
    return tuple((int(r), int(g), int(b)) for r, g, b in grid[chosen[:n]])
