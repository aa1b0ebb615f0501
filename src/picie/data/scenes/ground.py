"""The ground of a scene and its painters: grass, road and water."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from picie.data.scenes.canvas import FAR, FOCAL, GRASS, HEIGHT, ROAD, WATER, WIDTH, Canvas
from picie.data.scenes.textures import Floats, mix, rgb, smooth, texel


@dataclass(frozen=True)
class Ground:
    """Where road and water are, and the colours of the ground.

    Attributes:
        road: offset, slope and curvature of the road's centre line as a function of z, and half
            its width; None: no road.
        walk: width in metres of the pavements along the road.
        cross: distance of a crossing road; None: no crossing.
        water: near and far distance, left and right end, in metres, of a pond or river; None: no
            water.
        grass: colour of the grass.
        asphalt: colour of the road.
        pavement: colour of the pavements.
        deep: colour of deep water.
        dry: share of dry grass, 0 to 1.
        flowers: density of flowers; larger means more.
        ripple: strength of the ripples on the water.
    """

    road: tuple[float, float, float, float] | None
    walk: float
    cross: float | None
    water: tuple[float, float, float, float] | None
    grass: Floats
    asphalt: Floats
    pavement: Floats
    deep: Floats
    dry: float
    flowers: float
    ripple: float

    def across(self, x: Any, z: Any) -> Any:
        """Metres to the right of the road's centre line."""
        shift, slope, bend, _ = self.road or (0.0, 0.0, 0.0, 0.0)
        return x - (shift + slope * z + bend * z * z)

    def kind(self, x: Any, z: Any) -> npt.NDArray[np.uint8]:
        """The label of ground points: GRASS, ROAD or WATER."""
        # explicit broadcasting: np.broadcast_arrays costs as much as the rest of this function
        x, z = x + 0 * z, z + 0 * x
        label = np.full(x.shape, GRASS, np.uint8)
        if self.water:
            near, far, left, right = self.water
            wobble = np.sin(x * 0.19 + near) + 0.6 * np.sin(x * 0.47 + far)
            mx, mz = (left + right) / 2, (near + far) / 2
            inside = (
                np.square(((x - mx) / (right - left) * 2) ** 2) + ((z - mz + wobble * 0.06 * mz) / (far - near) * 2) ** 2 < 1
            )
            label[inside] = WATER
        if self.road:
            half = self.road[3]
            label[np.abs(self.across(x, z)) < half + self.walk] = ROAD
            if self.cross is not None:
                label[np.abs(z - self.cross) < half] = ROAD
        return label


def _grass(c: Canvas, g: Ground, x: Floats, z: Floats) -> Floats:
    # measured in picture rows, so that blades of grass keep their shape at any distance
    down = np.log(FOCAL * c.eye / z + 5)
    lean = smooth("fbm", x * 3, z * 3)
    blade = smooth("blade", x * 34 / c.eye + lean, down * 190 + lean * 4)
    patch = smooth("fbm", x * 2 + c.shift[0], z * 2)
    fade = np.clip(1.25 - z / (22 * c.eye), 0.2, 1)
    color = mix(g.grass, rgb(0.55, 0.5, 0.28), np.clip(g.dry + 0.16 * patch, 0, 0.8))
    color = color * (1 + 0.17 * blade * fade + 0.08 * patch)
    bloom = texel("grain", x * 40 / c.eye, z * 22 / c.eye) > 3.2 - g.flowers
    return np.where((bloom & (z < 18 * c.eye)), rgb(0.95, 0.9, 0.55 + 0.3 * g.dry), color)


def _road(c: Canvas, g: Ground, x: Floats, z: Floats) -> Floats:
    half = g.road[3] if g.road else 0.0
    d = g.across(x, z)
    fade = np.clip(1.2 - z / (20 * c.eye), 0.15, 1)
    grit = texel("grain", x * 45 / c.eye, z * 30 / c.eye) * fade
    worn = smooth("fbm", d * 8, z * 0.9 + c.shift[1])
    lanes = np.abs(np.abs(d) - half / 2)
    base = g.asphalt * (1 + 0.09 * grit + 0.06 * worn - 0.07 * (np.abs(lanes - 0.75) < 0.3))
    line = (np.abs(d) < 0.1) & ((z + c.shift[2]) % 7 < 3.5) | (np.abs(np.abs(d) - half + 0.35) < 0.09)
    if g.cross is not None:
        here = np.abs(z - g.cross) < half
        stripes = (np.abs(z - g.cross + half + 2.2) < 1.3) & (d % 1.1 < 0.55) & (np.abs(d) < half)
        middle = (np.abs(z - g.cross) < 0.1) & (x % 6 < 3)
        line = (line & ~here) | stripes | (middle & here)
    base = mix(base, rgb(0.86, 0.86, 0.8), (0.85 * line * np.clip(1.5 - z / 90, 0.2, 1)))
    over = np.abs(d) - half
    beside = (over > 0) & (over < g.walk) & ((np.abs(z - g.cross) > half) if g.cross is not None else True)
    joints = ((d % 0.9 < 0.08) | (z % 0.9 < 0.12)) * fade
    slabs = g.pavement * (1 + 0.05 * grit + 0.05 * worn - 0.2 * joints + 0.3 * (over < 0.2))
    return np.asarray(np.where(beside, slabs, base), np.float32)


def paint_ground(c: Canvas, g: Ground, shadows: Sequence[npt.NDArray[np.float64]], softness: float) -> None:
    """Paint grass, road and water bed, with `shadows`: ground polygons (N, 2) of (x, z)."""
    top = max(int(c.horizon) + 1, 0)
    rows = slice(top, HEIGHT)
    z = np.minimum(FOCAL * c.eye / (c.y[rows] - c.horizon), FAR) + 0 * c.x
    x = (c.x - WIDTH / 2) * z / FOCAL
    stamp = Image.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(stamp)
    flat = np.concatenate([np.zeros((0, 2)), *shadows])
    at = c.project(np.stack([flat[:, 0], 0 * flat[:, 0], flat[:, 1]], 1)).ravel().tolist()
    for end, p in zip(np.cumsum([2 * len(p) for p in shadows]).tolist(), shadows, strict=True):
        draw.polygon(at[end - 2 * len(p) : end], fill=1)
    shadow = ndimage.uniform_filter(np.array(stamp)[rows].astype(np.float32), 2)
    clouds = np.clip(0.9 + 0.12 * smooth("fbm", x * 0.35, z * 0.35 + c.shift[3]), 0.6, 1)
    lambert = (0.2 + 0.8 * c.light.sun[1]) * clouds * (1 - softness * shadow)
    label = g.kind(x, z)
    albedo = np.empty((3, label.size), np.float32)
    for kind, paint in ((ROAD, _road), (GRASS, _grass)):
        here = np.flatnonzero(label == kind)
        albedo[:, here] = paint(c, g, x.ravel()[None, here], z.ravel()[None, here])[:, 0]
    albedo[:, np.flatnonzero(label == WATER)] = g.deep[:, 0]
    albedo = albedo.reshape(3, *label.shape)
    c.rgb[:, rows], c.label[rows], c.depth[rows] = c.light.shade(albedo, lambert), label, z


def paint_water(c: Canvas, g: Ground) -> None:
    """Paint reflections on the water, distorted by ripples and tinted by its depth."""
    if not (c.label == WATER).any():
        return
    first = int((c.label == WATER).any(1).argmax())
    wet, y = c.label[first:] == WATER, c.y[first:]
    shore = first + wet.argmax(0)[None]
    down = np.maximum(y - c.horizon, 0.5)
    u = (c.x - WIDTH / 2) * c.eye / down
    wave = smooth("wave", u * 5 / c.eye + c.shift[0], np.log(down + 1) * 60 + c.shift[1])
    steep = np.clip(down / 40, 0.15, 1)
    row = np.clip(2 * shore - y - 1 + g.ripple * 3.5 * wave * steep, 0, HEIGHT - 1).astype(np.int32)
    col = np.clip(c.x - 0.5 + g.ripple * 1.5 * wave, 0, WIDTH - 1).astype(np.int32)
    mirror = c.rgb[:, np.where(row < shore, row, np.maximum(shore - 1, 0)), col]
    grazing = np.clip(0.86 - 0.4 * steep + 0.1 * wave * g.ripple, 0.1, 0.95)
    color = mix(c.light.shade(g.deep, 0.7), mirror * 0.92, grazing) * (1 + 0.07 * g.ripple * wave)
    bank = np.clip((y - shore) / 2.5, 0.55, 1)
    np.copyto(c.rgb[:, first:], color * bank, where=wet)
