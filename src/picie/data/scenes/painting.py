"""Brushes for the procedural landscapes of `picie.data.scenes.dataset`: light, textures, and one painter for each class.

The world is in metres: x to the right, y up, z away from the camera, which stands at (0, eye, 0) and looks along z.
Painters go from far to near and write colour, label and depth together, so that the label map is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage, spatial

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator

WIDTH, HEIGHT, FOCAL = 240, 160, 190.0
SKY, CLOUD, BUILDING, ROAD, TREE, GRASS, WATER, CAR = range(8)
_TILE = 256
_FAR = 900.0


def rgb(*values: float) -> Floats:
    """A colour, (3, 1, 1) float32: planes come first, which is several times quicker than channels last."""
    return np.array(values, np.float32)[:, None, None]


def mix(a: Any, b: Any, t: Any) -> Any:
    """Linear blend from `a` (t = 0) to `b` (t = 1)."""
    return a + (b - a) * t


@lru_cache(maxsize=1)
def _textures() -> dict[str, Floats]:
    """Tiling noises, (256, 256) float32 of mean 0 and deviation 1; the same in every scene, which shifts them."""
    rng = np.random.default_rng(20)
    fy, fx = np.meshgrid(np.fft.fftfreq(_TILE), np.fft.fftfreq(_TILE), indexing="ij")
    k = np.hypot(fx, fy) + 1e-3
    seeds = rng.uniform(0, _TILE, (900, 2))
    grid = np.stack(np.meshgrid(np.arange(_TILE), np.arange(_TILE), indexing="ij"), -1).reshape(-1, 2)
    cells = -spatial.cKDTree(seeds, boxsize=_TILE).query(grid)[0].reshape(_TILE, _TILE)
    filters = {
        "fbm": k**-1.75,
        "fine": k**-0.9,
        "grain": np.ones_like(k),
        "blade": np.exp(-((fy / 0.05) ** 2)) * np.abs(fx) ** 0.5,
        "wave": np.exp(-((fx / 0.04) ** 2)) * np.exp(-((fy / 0.16) ** 2)),
    }
    noises = {n: np.fft.ifft2(np.fft.fft2(rng.normal(size=k.shape)) * f).real for n, f in filters.items()}
    noises["clump"] = cells + 0.6 * noises["fine"] / noises["fine"].std()
    return {n: ((a - a.mean()) / a.std()).astype(np.float32) for n, a in noises.items()}


@lru_cache(maxsize=1)
def _refined() -> dict[str, Floats]:
    names = ("fbm", "fine", "blade", "wave", "clump")
    return {n: ndimage.zoom(_textures()[n], 2, order=2, mode="grid-wrap", grid_mode=True) for n in names}


def texel(name: str, u: Floats, v: Floats) -> Floats:
    """The nearest value of a noise at texel coordinates, for detail that is finer than a pixel or as fine."""
    found: Floats = _textures()[name][v.astype(np.int32) & (_TILE - 1), u.astype(np.int32) & (_TILE - 1)]
    return found


def smooth(name: str, u: Any, v: Any) -> Floats:
    """A noise at texel coordinates, for what is magnified: a table of four values a texel is quicker than blending."""
    size = 2 * _TILE - 1
    u, v = np.asarray(2 * u, np.float32), np.asarray(2 * v, np.float32)
    found: Floats = _refined()[name][v.astype(np.int32) & size, u.astype(np.int32) & size]
    return found


@dataclass(frozen=True)
class Light:
    """The weather: direction to the sun (3,), and colours (3,) of direct light, shade, sky above and at the horizon."""

    sun: Floats
    warm: Floats
    ambient: Floats
    zenith: Floats
    horizon: Floats
    haze_m: float

    def shade(self, albedo: Floats, lambert: Any) -> Floats:
        """Colour (3, h, w) of a surface of `albedo` (3, h, w) that faces the sun by `lambert` (h, w), 0 to 1."""
        shaded: Floats = albedo * (self.ambient + self.warm * np.minimum(np.maximum(lambert, 0), 1.3))
        return shaded.astype(np.float32, copy=False)


class Canvas:
    """What is painted so far: colour (3, 160, 240), label (160, 240) and depth in metres (160, 240)."""

    def __init__(self, light: Light, horizon: float, eye: float, shift: Floats) -> None:
        self.rgb = np.zeros((3, HEIGHT, WIDTH), np.float32)
        self.label = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.depth = np.full((HEIGHT, WIDTH), _FAR, np.float32)
        self.light, self.horizon, self.eye, self.shift = light, horizon, eye, shift
        self.y = np.arange(HEIGHT, dtype=np.float32)[:, None] + 0.5
        self.x = np.arange(WIDTH, dtype=np.float32)[None] + 0.5

    def project(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Screen positions (N, 2) of world points (N, 3); what is nearer than 1 m is taken to be at 1 m."""
        p = np.asarray(points, np.float64)
        scale = FOCAL / np.maximum(p[:, 2], 1.0)
        return np.stack([WIDTH / 2 + p[:, 0] * scale, self.horizon + (self.eye - p[:, 1]) * scale], 1)

    def box(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice] | None:
        """The pixels from (x0, y0) to (x1, y1) as slices of rows and columns; None outside of the picture."""
        c0, c1 = max(int(np.floor(x0)), 0), min(int(np.ceil(x1)), WIDTH)
        r0, r1 = max(int(np.floor(y0)), 0), min(int(np.ceil(y1)), HEIGHT)
        return (slice(r0, r1), slice(c0, c1)) if c0 < c1 and r0 < r1 else None

    def put(self, where: tuple[slice, slice], mask: Mask, color: Floats, label: int, depth: Any) -> None:
        """Paint `color` (3, h, w) on the pixels of the region `where` that `mask` (h, w) names."""
        np.copyto(self.rgb[:, where[0], where[1]], color, where=mask)
        np.copyto(self.label[where], np.uint8(label), where=mask)
        np.copyto(self.depth[where], np.asarray(depth, np.float32), where=mask)


def paint_sky(c: Canvas) -> None:
    """A gradient from the horizon up, with a glow where the sun stands in front of the camera."""
    rows = slice(0, int(c.horizon) + 2)
    up = np.clip((c.horizon - c.y[rows]) / 95, 0, 1) ** 0.7
    c.rgb[:, rows] = mix(c.light.horizon, c.light.zenith, up)
    if c.light.sun[2] > 0.15:
        at = FOCAL * c.light.sun[:2] / c.light.sun[2]
        d2 = (c.x - WIDTH / 2 - at[0]) ** 2 + (c.y[rows] - c.horizon + at[1]) ** 2
        glow = 0.35 * np.exp(-d2 / 5000) + 0.6 * np.exp(-d2 / 200)
        c.rgb[:, rows] += glow * np.minimum(c.light.warm, 1)


def paint_clouds(c: Canvas, cover: float, scale: float) -> None:
    """A layer of clouds in perspective, bright towards the sun and grey below; `cover` is about -1 (few) to 1."""
    rows = slice(0, max(int(c.horizon) - 2, 1))
    near = 3600 / (c.horizon - c.y[rows] + 45)
    u = (c.x - WIDTH / 2) * near / 60 * scale + c.shift[0]
    v = near * 1.3 * scale + c.shift[1] + 0 * u
    body = smooth("fbm", u, v) + 0.22 * smooth("fine", u * 2, v * 2)
    towards = smooth("fbm", u + 5 * c.light.sun[0], v + 4)
    dense = body + cover
    bright = np.clip(1.02 + 0.24 * (body - towards) - 0.15 * np.clip(dense, 0, 2.2), 0.42, 1.2)
    lit = mix(c.light.horizon, np.minimum(c.light.warm * 0.7 + c.light.ambient * 0.9, 1.2), 0.7)
    alpha = np.clip(dense / 0.45 + 0.5, 0, 1)
    c.rgb[:, rows] = mix(c.rgb[:, rows], lit * bright, alpha * 0.96)
    c.label[rows][alpha > 0.5] = CLOUD


def paint_hill(c: Canvas, base: float, swing: float, depth: float, albedo: Floats, label: int) -> None:
    """A distant ridge, wooded (label TREE) or meadow (GRASS); `base` and `swing` of its crest in pixels."""
    u = c.x * 0.35 + c.shift[2] + depth
    crest = c.horizon - base - swing * smooth("fbm", u, np.float32(depth)) - (label == TREE) * texel("grain", u * 9, u)
    region = c.box(0, WIDTH, float(crest.min()), c.horizon + 2)
    if region is None:
        return
    y = c.y[region[0]]
    slope = smooth("fbm", u * 1.7, y * 0.9 + depth)
    detail = texel("clump", c.x * 2.2, y * 3 + depth) if label == TREE else smooth("fine", c.x * 0.5, y * 2)
    lambert = 0.55 + 0.2 * slope + (0.2 if label == TREE else 0.07) * detail
    c.put(region, (y > crest) & (y < c.horizon + 2), c.light.shade(albedo, lambert), label, depth)


@dataclass(frozen=True)
class Facade:
    """How a building looks: colours (3,), its material and the size in metres of its storeys, bays and windows."""

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
    """Wall colour (3, h, w) and the mask of panes, at `s` metres along the wall and `v` metres above the ground."""
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
    """An upright wall over the ground points `a` and `b`, each (x, z), with windows in perspective."""
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
    """A plane of tiles between world points."""
    points = c.project(corners)
    region = c.box(*_span(points[:, 0]), *_span(points[:, 1]))
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


def _span(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def paint_building(c: Canvas, f: Facade, x: tuple[float, float], z: tuple[float, float], height: float) -> None:
    """A box over x[0]..x[1], z[0]..z[1]; below 9 m it wears a hipped roof."""
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


def paint_tree(c: Canvas, rng: Rng, x: float, z: float, height: float, albedo: Floats, conifer: bool) -> None:
    """A broadleaf of leafy clumps or a conifer of tiers, with its trunk."""
    scale, foot = FOCAL / z, c.horizon + FOCAL * c.eye / z
    center, wide = WIDTH / 2 + x * scale, height * (0.3 if conifer else 0.55)
    region = c.box(center - wide * scale, center + wide * scale, foot - height * 1.15 * scale, foot)
    if region is None:
        return
    px, py = c.x[:, region[1]], c.y[region[0]]
    u, v = (px - center) / (scale * height), (foot - py) / (scale * height)
    step, shift = 2.4 / max(1.0, scale / 14), rng.uniform(0, _TILE, 2).astype(np.float32)
    leaf = texel("clump", (px - center) * step + shift[0], py * step + shift[1])
    if conifer:
        reach = 0.24 * np.clip(1.02 - v, 0, 1) * (0.7 + 0.5 * ((-v * 7 + 0.12 * leaf) % 1)) + 1e-3
        nx, ny, d2 = u / reach, 0.3 + 0 * u + 0 * v, (u / reach) ** 2 + (v + 0.02 * leaf < 0.1) * 9.0
    else:
        n = 7
        blobs = np.stack([rng.normal(0, 0.17, n), rng.uniform(0.4, 0.84, n), rng.uniform(0.15, 0.25, n)], 1)
        bx, by, br = (blobs[:, i].astype(np.float32)[:, None, None] for i in range(3))
        each = ((u - bx) ** 2 + (v - by) ** 2) / br**2
        best = each.argmin(0)
        d2 = each.min(0)
        nx, ny = (u - bx[best, 0, 0]) / br[best, 0, 0], (v - by[best, 0, 0]) / br[best, 0, 0]
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
    sun = c.light.sun
    lambert = 0.42 + 0.5 * (nx * sun[0] + ny * sun[1] - nz * sun[2]) + 0.26 * leaf
    color = c.light.shade(albedo * (0.55 + 0.5 * np.clip(v + 0.12 * leaf, 0, 1)).astype(np.float32), lambert)
    trunk = (np.abs(u) < 0.025 + 0.01 * (v < 0.06)) & (v < 0.6) & (v >= 0)
    bark = c.light.shade(rgb(0.32, 0.25, 0.2) * (1 + 0.2 * leaf), 0.5 + 3 * np.sign(sun[0]) * u)
    c.put(region, trunk, bark, TREE, z)
    c.put(region, 1 - d2 + 0.3 * leaf > 0.12, color, TREE, z)


def paint_treeline(c: Canvas, z: float, height: float, albedo: Floats, ends: tuple[float, float]) -> None:
    """The edge of a wood at distance `z` between two screen columns: rounded crowns side by side."""
    scale, foot = FOCAL / z, c.horizon + FOCAL * c.eye / z
    region = c.box(*ends, foot - 1.5 * height * scale, foot)
    if region is None:
        return
    x, y = c.x[:, region[1]], c.y[region[0]]
    u, v = x / (height * scale), (foot - y) / (height * scale)
    crown = smooth("clump", u * 9 + c.shift[3], np.float32(z))
    tops = 0.75 + 0.13 * crown + 0.12 * smooth("fbm", u * 2, np.float32(z))
    fade = np.clip(np.minimum(x - ends[0], ends[1] - x) / 14, 0, 1) ** 0.5
    form = smooth("clump", u * 9 + c.shift[3], v * 8 + z)
    leaf = texel("clump", x * 2.5, y * 2.5 + c.shift[3])
    lambert = 0.3 + 0.3 * v + 0.17 * form + 0.17 * leaf - 0.2 * c.light.sun[2]
    tint = mix(albedo, albedo[[1, 0, 2]] * rgb(1, 0.8, 0.8), np.clip(0.3 * smooth("fbm", u * 9, u) + 0.1, 0, 0.5))
    color = c.light.shade(tint * (0.6 + 0.4 * np.clip(v, 0, 1)), lambert)
    c.put(region, v < tops * fade + 0.04 * leaf, color, TREE, z)


@dataclass(frozen=True)
class Ground:
    """The lie of the land: where road and water are, and how all of it is coloured.

    Attributes:
        road: shift, slope and bend of the road's centre over z, and half its width; None where there is no road.
        walk: width in metres of the paved walks along the road.
        cross: distance of a road that crosses from side to side; None for none.
        water: near and far distance, left and right end in metres of a pond or river; None for none.
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
        # spelt out: numpy's own broadcasting of the pair costs as much as all the rest
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
    # rows of the picture, so that blades keep their shape however far away they are
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
    """Grass, road and the bed of the water from the horizon down, under shadows: ground polygons (N, 2) of (x, z)."""
    top = max(int(c.horizon) + 1, 0)
    rows = slice(top, HEIGHT)
    z = np.minimum(FOCAL * c.eye / (c.y[rows] - c.horizon), _FAR) + 0 * c.x
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
    """Mirror what stands behind the water, broken by ripples and tinted by its depth."""
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


_BODY = ((-2.1, 0.35), (-2.1, 0.85), (-1.15, 0.98), (1.95, 1.0), (2.1, 0.8), (2.1, 0.35))
_CABIN = ((-1.2, 0.95), (-0.55, 1.48), (1.15, 1.5), (1.95, 0.98))
_WINDOW = ((-0.95, 1.02), (-0.45, 1.4), (1.05, 1.42), (1.65, 1.03))
_WHEEL = [(float(np.cos(t)), float(np.sin(t))) for t in np.linspace(0, 2 * np.pi, 10)]
_SUPER = 3


_Profile = Sequence[tuple[float, float]]


class _CarBody:
    """The faces of a car in its own metres: behind the middle, up, and to the side."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float, float]] = []
        self.counts: list[int] = []
        self.colors: list[Floats] = []

    def flat(self, profile: _Profile, width: float, color: Floats) -> None:
        """A face along the car, `width` metres off its axis."""
        self.points += [(p, h, width) for p, h in profile]
        self.counts.append(len(profile))
        self.colors.append(color)

    def span(self, p: tuple[float, float], q: tuple[float, float], w0: float, w1: float, color: Floats) -> None:
        """A face across the car, from width `w0` to `w1`."""
        self.points += [(*p, w0), (*q, w0), (*q, w1), (*p, w1)]
        self.counts.append(4)
        self.colors.append(color)


def _car_faces(light: Light, albedo: Floats, near: float, away: bool) -> _CarBody:
    """The faces from far to near: under side, top, flank, the end in view, cabin, panes, lights and wheels."""
    car = _CarBody()
    flank, end, top = (light.shade(albedo, a) + b * light.zenith for a, b in ((0.45, 0.03), (0.3, 0), (0.9, 0.1)))
    dark, metal = light.shade(rgb(0.06, 0.06, 0.07), 0.5), light.shade(rgb(0.5, 0.5, 0.52), 0.5)
    glass = 0.12 + 0.35 * light.zenith
    wide, thin, x = 0.88 * near, 0.74 * near, 2.1 if away else -2.1
    car.flat(((-1.9, 0.12), (1.9, 0.12), (1.9, 0.4), (-1.9, 0.4)), wide, dark)
    for i in (1, 2, 3):
        car.span(_BODY[i], _BODY[i + 1], -0.88, 0.88, top)
    car.flat(_BODY, wide, flank)
    car.span((x, 0.2), (x, 0.85), -0.88, 0.88, end)
    car.span((x, 0.2), (x, 0.38), -0.88, 0.88, dark)
    car.span(_CABIN[1], _CABIN[2], -0.74, 0.74, top)
    car.flat(_CABIN, thin, flank)
    car.flat(_WINDOW, thin, glass)
    car.flat(((0.25, 1.0), (0.25, 1.45), (0.37, 1.45), (0.37, 1.0)), thin, flank)
    low, high = (_CABIN[3], _CABIN[2]) if away else (_CABIN[0], _CABIN[1])
    car.span(low, high, -0.76, 0.76, end)
    car.span((low[0] * 0.98, low[1] + 0.05), (high[0] * 1.02, high[1] - 0.08), -0.64, 0.64, glass * 0.9)
    for w in (-0.85, 0.55):
        car.span((x, 0.6), (x, 0.78), w, w + 0.3, rgb(0.85, 0.1, 0.08) if away else rgb(1.0, 0.97, 0.85))
    for hub in (-1.3, 1.3):
        for r, tone in ((0.36, dark), (0.19, metal)):
            car.flat([(hub + r * px, 0.34 + r * py) for px, py in _WHEEL], wide * 1.02, tone)
    return car


def paint_car(c: Canvas, at: tuple[float, float], heading: float, albedo: Floats, tall: float) -> None:
    """A car whose middle stands at `at` (x, z); it points along `heading`, in radians from the x axis towards z."""
    along, middle = np.array([np.cos(heading), np.sin(heading)]), np.array(at)
    side = np.array([-along[1], along[0]])
    car = _car_faces(c.light, albedo, -1.0 if side @ middle > 0 else 1.0, bool(along @ middle > 0))
    local = np.array(car.points)
    ground = middle - local[:, :1] * along + local[:, 2:] * side
    points = c.project(np.stack([ground[:, 0], local[:, 1] * tall, ground[:, 1]], 1))
    region = c.box(*_span(points[:, 0]), *_span(points[:, 1]))
    if region is None:
        return
    rows, cols = region[0].stop - region[0].start, region[1].stop - region[1].start
    outline = ((points - (region[1].start, region[0].start)) * _SUPER).ravel().tolist()
    patch = Image.new("RGBA", (cols * _SUPER, rows * _SUPER))
    draw = ImageDraw.Draw(patch)
    start, inks = 0, np.clip(np.stack(car.colors)[..., 0, 0] * 180, 0, 255).astype(int).tolist()
    for count, (red, green, blue) in zip(car.counts, inks, strict=True):
        draw.polygon(outline[2 * start : 2 * (start + count)], fill=(red, green, blue, 255))
        start += count
    *tones, alpha = np.asarray(patch.reduce(_SUPER), np.float32).transpose(2, 0, 1)
    c.put(region, alpha > 127, (np.stack(tones) / 180).astype(np.float32), CAR, at[1])


def develop(c: Canvas, rng: Rng) -> npt.NDArray[np.uint8]:
    """The photograph (160, 240, 3) uint8: haze, lens, exposure, colour cast and sensor noise."""
    veil = np.minimum(1 - np.exp(c.depth * np.float32(-1 / c.light.haze_m)), 0.85)
    veil[c.label <= CLOUD] = 0
    img = c.rgb * (1 - veil)
    img += veil * (c.light.horizon * 0.95)
    d2 = ((c.x - WIDTH / 2) / WIDTH) ** 2 + ((c.y - HEIGHT / 2) / WIDTH) ** 2
    img *= rgb(*rng.uniform(0.93, 1.07, 3)) * np.float32(rng.uniform(0.98, 1.3))
    img *= 1 - rng.uniform(0.1, 0.7) * d2
    np.clip(img, 0, 1.6, out=img)
    # highlights roll off as on film
    img *= 1.06 / (1 + 0.12 * img * img * img)
    blur = float(rng.uniform(0.12, 0.24))
    for axis in (1, 2):
        img = ndimage.correlate1d(img, [blur, 1 - 2 * blur, blur], axis=axis, mode="nearest")
    # one field serves all channels, shifted so far that nobody sees it
    grain = rng.standard_normal((HEIGHT, WIDTH + 80), np.float32) * np.float32(rng.uniform(0.004, 0.015))
    for channel, at in enumerate((0, 40, 80)):
        img[channel] += grain[:, at : at + WIDTH]
    np.clip(img, 0, 1, out=img)
    out: npt.NDArray[np.uint8] = (img * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()
    return out
