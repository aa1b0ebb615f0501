"""The canvas of a scene, its light, and the camera that turns it into a photograph.

The world is in metres: x to the right, y up, z away from the camera, which is at (0, eye, 0) and
looks along z. Painters work from far to near and write colour, label and depth together, so the
label map is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from picie.data.scenes.textures import Floats, rgb

Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator
WIDTH, HEIGHT, FOCAL = 240, 160, 190.0
SKY, CLOUD, BUILDING, ROAD, TREE, GRASS, WATER, CAR = range(8)
FAR = 900.0


@dataclass(frozen=True)
class Light:
    """Time of day and weather.

    Attributes:
        sun: (3,) unit vector towards the sun.
        warm: colour of direct sunlight.
        ambient: colour of the light in the shade.
        zenith: colour of the sky overhead.
        horizon: colour of the sky at the horizon.
        haze_m: distance in metres over which haze dims a colour by a factor of e.
    """

    sun: Floats
    warm: Floats
    ambient: Floats
    zenith: Floats
    horizon: Floats
    haze_m: float

    def shade(self, albedo: Floats, lambert: Any) -> Floats:
        """Colour (3, h, w) of a surface with `albedo` (3, h, w) and Lambert factor `lambert`."""
        shaded: Floats = albedo * (self.ambient + self.warm * np.minimum(np.maximum(lambert, 0), 1.3))
        return shaded.astype(np.float32, copy=False)


class Canvas:
    """The painted scene: colour (3, 160, 240), label (160, 240) and depth in metres (160, 240)."""

    def __init__(self, light: Light, horizon: float, eye: float, shift: Floats) -> None:
        self.rgb = np.zeros((3, HEIGHT, WIDTH), np.float32)
        self.label = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.depth = np.full((HEIGHT, WIDTH), FAR, np.float32)
        self.light, self.horizon, self.eye, self.shift = light, horizon, eye, shift
        self.y = np.arange(HEIGHT, dtype=np.float32)[:, None] + 0.5
        self.x = np.arange(WIDTH, dtype=np.float32)[None] + 0.5

    def project(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Screen positions (N, 2) of world points (N, 3); depths below 1 m are clamped to 1 m."""
        p = np.asarray(points, np.float64)
        scale = FOCAL / np.maximum(p[:, 2], 1.0)
        return np.stack([WIDTH / 2 + p[:, 0] * scale, self.horizon + (self.eye - p[:, 1]) * scale], 1)

    def box(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice] | None:
        """Pixels from (x0, y0) to (x1, y1) as row and column slices; None if outside."""
        c0, c1 = max(int(np.floor(x0)), 0), min(int(np.ceil(x1)), WIDTH)
        r0, r1 = max(int(np.floor(y0)), 0), min(int(np.ceil(y1)), HEIGHT)
        return (slice(r0, r1), slice(c0, c1)) if c0 < c1 and r0 < r1 else None

    def put(self, where: tuple[slice, slice], mask: Mask, color: Floats, label: int, depth: Any) -> None:
        """Paint colour, label and depth in the region `where`, restricted to `mask` (h, w)."""
        np.copyto(self.rgb[:, where[0], where[1]], color, where=mask)
        np.copyto(self.label[where], np.uint8(label), where=mask)
        np.copyto(self.depth[where], np.asarray(depth, np.float32), where=mask)


def value_range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The smallest and the largest value."""
    return float(values.min()), float(values.max())


def develop(c: Canvas, rng: Rng) -> npt.NDArray[np.uint8]:
    """Simulate a camera: haze, vignetting, exposure, colour cast and sensor noise.

    Returns:
        The photograph, (160, 240, 3) uint8.
    """
    veil = np.minimum(1 - np.exp(c.depth * np.float32(-1 / c.light.haze_m)), 0.85)
    veil[c.label <= CLOUD] = 0
    img = c.rgb * (1 - veil)
    img += veil * (c.light.horizon * 0.95)
    d2 = ((c.x - WIDTH / 2) / WIDTH) ** 2 + ((c.y - HEIGHT / 2) / WIDTH) ** 2
    img *= rgb(*rng.uniform(0.93, 1.07, 3)) * np.float32(rng.uniform(0.98, 1.3))
    img *= 1 - rng.uniform(0.1, 0.7) * d2
    np.clip(img, 0, 1.6, out=img)
    # compress the highlights, as film does
    img *= 1.06 / (1 + 0.12 * img * img * img)
    blur = float(rng.uniform(0.12, 0.24))
    for axis in (1, 2):
        img = ndimage.correlate1d(img, [blur, 1 - 2 * blur, blur], axis=axis, mode="nearest")
    # one noise field serves all channels, shifted by 40 columns each
    grain = rng.standard_normal((HEIGHT, WIDTH + 80), np.float32) * np.float32(rng.uniform(0.004, 0.015))
    for channel, at in enumerate((0, 40, 80)):
        img[channel] += grain[:, at : at + WIDTH]
    np.clip(img, 0, 1, out=img)
    out: npt.NDArray[np.uint8] = (img * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()
    return out
