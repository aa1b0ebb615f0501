"""Painters of buildings: walls with windows in perspective, and roofs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from picie.data.scenes.canvas import BUILDING, FOCAL, Canvas, Mask, value_range
from picie.data.scenes.textures import Floats, mix, rgb, smooth, texel


@dataclass(frozen=True)
class Facade:
    """The appearance of a building.

    Attributes:
        color: colour of the walls.
        trim: colour of the window frames and the cornice.
        roof: colour of the roof.
        brick: contrast of the brick joints; 0: plaster.
        floor: height of a storey in metres.
        bay: width of a window bay in metres.
        window: half the width and height of a window, as shares of a bay and a storey.
        lit: threshold of the noise above which a window is lit.
        key: offset into the noise, which makes buildings differ.
    """

    color: Floats
    trim: Floats
    roof: Floats
    brick: float
    floor: float
    bay: float
    window: tuple[float, float]
    lit: float
    key: float


def _facade_albedo(c: Canvas, f: Facade, s: Floats, v: Floats, z: Floats, height: float) -> tuple[Floats, Mask]:
    """Wall colour (3, h, w) and mask of window panes at distance `s` and height `v`."""
    near = np.clip(1.6 - z / 28, 0.15, 1)
    stain = 0.05 * smooth("fbm", s * 6 + f.key, v * 5) + 0.05 * texel("grain", s * 19, v * 19 + f.key) * near
    course = np.floor(v / 0.3)
    joint = ((v / 0.3) % 1 < 0.25) | ((s / 0.7 + 0.5 * course) % 1 < 0.12)
    wall = f.color * (1 + stain - f.brick * near * joint)
    bu, bv = s / f.bay, (v - 0.3) / f.floor
    du, dv = np.abs(bu % 1 - 0.5) / f.window[0], np.abs(bv % 1 - 0.52) / f.window[1]
    around = np.maximum(du, dv)
    inside = (bv > 0) & (v < height - 0.5)
    trim = inside & (around < 1.22) | (v > height - 0.45) | ((bv % 1 < 0.05) & (f.brick < 0.1))
    wall = np.where(trim, f.trim * (1 + stain), wall)
    pane = inside & (around < 1) & (du > 0.09)
    return wall, pane


def _paint_wall(c: Canvas, f: Facade, a: tuple[float, float], b: tuple[float, float], height: float) -> None:
    """Paint a vertical wall between the ground points `a` and `b`, each (x, z), with windows."""
    (xa, ya), (xb, yb) = c.project([(a[0], height, a[1]), (b[0], height, b[1])]).tolist()
    if xa > xb:
        return _paint_wall(c, f, b, a, height)
    foot = c.horizon + FOCAL * c.eye / min(a[1], b[1])
    region = c.box(xa, xb, min(ya, yb), foot)
    if region is None or xb - xa < 0.5:
        return None
    y, t = c.y[region[0]], np.clip((c.x[:, region[1]] - xa) / (xb - xa), 0, 1)
    z = 1 / mix(1 / a[1], 1 / b[1], t)
    v = (c.horizon - y) * z / FOCAL + c.eye
    run = float(np.hypot(b[0] - a[0], b[1] - a[1]))
    s = run * t * z / b[1] + 0 * v
    normal = np.array([b[1] - a[1], -(b[0] - a[0])]) / run
    lambert = float(normal @ c.light.sun[[0, 2]]) * 0.95 + 0.12
    albedo, pane = _facade_albedo(c, f, s, v, z, height)
    color = c.light.shade(albedo, lambert * (0.85 + 0.15 * np.clip(v / 4, 0, 1)))
    cell = texel("grain", np.floor(s / f.bay) * 7 + f.key, np.floor(v / f.floor) * 13 + f.key)
    glass = mix(c.light.horizon, c.light.zenith, ((v * 0.3) % 1)) * (0.45 + 0.17 * cell)
    glass = np.where((cell > f.lit), rgb(1.0, 0.8, 0.45), np.maximum(glass, 0.05))
    color = np.where(pane, glass, color)
    c.put(region, (v >= 0) & (v <= height), color, BUILDING, z + 0 * v)
    return None


def _paint_roof(c: Canvas, f: Facade, corners: Sequence[Sequence[float]], lambert: float) -> None:
    """Paint a tiled roof plane between world points."""
    points = c.project(corners)
    region = c.box(*value_range(points[:, 0]), *value_range(points[:, 1]))
    if region is None:
        return
    stamp = Image.new("1", (region[1].stop - region[1].start, region[0].stop - region[0].start))
    ImageDraw.Draw(stamp).polygon((points - (region[1].start, region[0].start)).ravel().tolist(), fill=1)
    y, x = c.y[region[0]], c.x[:, region[1]]
    z = min(p[2] for p in corners)
    row = (c.horizon - y) * z / FOCAL * 2.4
    tiles = 1 - 0.22 * (row % 1 < 0.4) + 0.09 * texel("grain", x + f.key, y)
    color = c.light.shade(f.roof * np.asarray(tiles, np.float32), lambert)
    c.put(region, np.array(stamp), color, BUILDING, z)


def paint_building(c: Canvas, f: Facade, x: tuple[float, float], z: tuple[float, float], height: float) -> None:
    """Paint a box over x[0]..x[1], z[0]..z[1]; below 9 m of height it has a hipped roof."""
    beside = x[0] if x[0] > 0 else x[1] if x[1] < 0 else None
    if beside is not None:
        _paint_wall(c, f, (beside, z[0]), (beside, z[1]), height)
    _paint_wall(c, f, (x[0], z[0]), (x[1], z[0]), height)
    if height >= 9:
        return
    mid, rise, inset, out = (z[0] + z[1]) / 2, 2.6, min(x[1] - x[0], z[1] - z[0]) * 0.42, 0.4 * (c.eye > height)
    e0, e1 = (x[0] - out, height, z[0] - out), (x[1] + out, height, z[0] - out)
    r0, r1 = (x[0] + inset, height + rise, mid), (x[1] - inset, height + rise, mid)
    sun = c.light.sun
    if beside is not None:
        near, back, ridge = (e0, (e0[0], height, z[1]), r0) if x[0] > 0 else (e1, (e1[0], height, z[1]), r1)
        _paint_roof(c, f, [near, back, ridge], 0.6 * sun[1] - 0.7 * np.sign(beside) * sun[0])
    _paint_roof(c, f, [e0, e1, r1, r0], 0.6 * sun[1] - 0.7 * sun[2] + 0.1)
