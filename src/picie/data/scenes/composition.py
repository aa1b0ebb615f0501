"""Random layouts of landscapes and streets: what is in a scene, where, and in which light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from picie.data.scenes.buildings import Facade, paint_building
from picie.data.scenes.canvas import GRASS, TREE, Canvas, Light, Rng
from picie.data.scenes.cars import paint_car
from picie.data.scenes.ground import Ground, paint_ground, paint_water
from picie.data.scenes.nature import paint_clouds, paint_hill, paint_sky, paint_tree, paint_treeline
from picie.data.scenes.textures import Floats, mix, rgb


def _light(rng: Rng) -> Light:
    """Draw a time of day and a weather."""
    skies = (
        # zenith, horizon, direct light, shade, elevation of the sun in degrees
        ((0.22, 0.45, 0.80), (0.72, 0.84, 0.95), (0.95, 0.92, 0.84), (0.34, 0.38, 0.45), (35, 65)),
        ((0.30, 0.50, 0.75), (0.93, 0.85, 0.72), (1.05, 0.86, 0.60), (0.32, 0.34, 0.42), (16, 32)),
        ((0.33, 0.38, 0.62), (0.98, 0.66, 0.45), (1.00, 0.62, 0.36), (0.30, 0.30, 0.42), (9, 18)),
        ((0.62, 0.67, 0.73), (0.82, 0.84, 0.86), (0.28, 0.28, 0.27), (0.62, 0.64, 0.68), (30, 60)),
        ((0.14, 0.20, 0.42), (0.62, 0.50, 0.56), (0.34, 0.28, 0.30), (0.34, 0.36, 0.50), (10, 20)),
    )
    kind = int(rng.choice(len(skies), p=(0.36, 0.24, 0.14, 0.18, 0.08)))
    zenith, horizon, warm, ambient, span = skies[kind]
    up, turn = np.radians(rng.uniform(*span)), rng.uniform(0, 2 * np.pi)
    # mostly from the side or from behind the camera, as in most photos
    z = np.sin(turn) - 0.35
    sun = np.array([np.cos(turn), 0, z]) / np.hypot(np.cos(turn), z) * np.cos(up) + [0, np.sin(up), 0]
    tint = rng.uniform(0.9, 1.1, (4, 3))
    tones = [rgb(*(np.array(a) * t)) for a, t in zip((warm, ambient, zenith, horizon), tint, strict=True)]
    return Light(sun.astype(np.float32), tones[0], tones[1], tones[2], tones[3], float(np.exp(rng.uniform(5.2, 7.2))))


def _pick(rng: Rng, *colors: tuple[float, float, float]) -> Floats:
    """Draw one of the colours, with a small variation."""
    color = np.array(colors[int(rng.integers(len(colors)))]) * rng.uniform(0.85, 1.12) * rng.uniform(0.93, 1.07, 3)
    return rgb(*color)


def _ground(rng: Rng, town: bool) -> Ground:
    """Draw road, water and the colours of the ground."""
    road = water = cross = None
    if town or rng.random() < 0.55:
        slope = rng.uniform(-0.35, 0.35) if town else rng.uniform(-1.0, 1.0)
        road = (rng.uniform(-5, 5), slope, rng.uniform(-4e-3, 4e-3) * (not town), rng.uniform(2.8, 5.0))
        cross = float(rng.uniform(18, 32)) if rng.random() < 0.35 else None
    if rng.random() < (0.3 if town else 0.72):
        near = rng.uniform(9, 22)
        far, mid, half = near * rng.uniform(2.0, 9.0), rng.uniform(-14, 14), rng.uniform(8, 60)
        water = (float(near), float(far), float(mid - half), float(mid + half))
    return Ground(
        road,
        float(rng.uniform(1.5, 4.0)) if town else 0.0,
        cross,
        water,
        grass=_pick(rng, (0.30, 0.46, 0.16), (0.38, 0.50, 0.20), (0.24, 0.40, 0.17), (0.48, 0.50, 0.22)),
        asphalt=_pick(rng, (0.34, 0.34, 0.36), (0.48, 0.47, 0.46), (0.26, 0.27, 0.30), (0.52, 0.44, 0.37)),
        pavement=_pick(rng, (0.60, 0.58, 0.55), (0.55, 0.44, 0.38), (0.50, 0.51, 0.54)),
        deep=_pick(rng, (0.10, 0.20, 0.24), (0.16, 0.24, 0.18), (0.24, 0.22, 0.16), (0.08, 0.16, 0.30)),
        dry=float(rng.choice([0.0, 0.1, 0.3, 0.6])),
        flowers=float(rng.choice([-2.0, 0.4, 1.0])),
        ripple=float(rng.uniform(0.25, 1.1)),
    )


def _facade(rng: Rng, height: float, dusk: bool) -> Facade:
    """Draw the appearance of a house, a block of flats or a tower."""
    walls = (
        ((0.55, 0.30, 0.22), 0.25),
        ((0.72, 0.46, 0.32), 0.2),
        ((0.88, 0.84, 0.76), 0.0),
        ((0.78, 0.70, 0.48), 0.0),
        ((0.58, 0.68, 0.76), 0.0),
        ((0.55, 0.54, 0.53), 0.06),
        ((0.84, 0.86, 0.88), 0.03),
        ((0.50, 0.58, 0.44), 0.0),
        ((0.80, 0.56, 0.50), 0.0),
    )
    color, brick = walls[int(rng.integers(len(walls)))]
    glazed = height > 16 and rng.random() < 0.5
    return Facade(
        _pick(rng, color),
        _pick(rng, (0.85, 0.83, 0.78), (0.35, 0.33, 0.32), (0.62, 0.6, 0.56)),
        _pick(rng, (0.56, 0.27, 0.18), (0.33, 0.30, 0.32), (0.44, 0.32, 0.25), (0.40, 0.45, 0.46)),
        brick,
        floor=float(rng.uniform(2.7, 3.6)),
        bay=float(rng.uniform(2.0, 3.4)),
        window=(0.42, 0.4) if glazed else (float(rng.uniform(0.2, 0.32)), float(rng.uniform(0.24, 0.34))),
        lit=float(rng.choice([0.9, 1.6, 9.0])) if dusk else 9.0,
        key=float(rng.uniform(0, 200)),
    )


@dataclass(frozen=True)
class _Thing:
    """An object: its distance, its painter, and its shadows as ground polygons (N, 2)."""

    z: float
    paint: Callable[[], None]
    shadows: list[npt.NDArray[np.float64]]


class _Planner:
    """Places objects on grass, so that none is on the road, in the water or in another object."""

    def __init__(self, rng: Rng, canvas: Canvas, ground: Ground) -> None:
        self.rng, self.canvas, self.ground = rng, canvas, ground
        self.things: list[_Thing] = []
        self.taken: list[tuple[float, float, float, float]] = []
        sun = canvas.light.sun
        self.throw = -np.array([sun[0], sun[2]], np.float64) / max(float(sun[1]), 0.3)

    def free(self, x0: float, x1: float, z0: float, z1: float) -> bool:
        """Whether the rectangle is grass without a building."""
        if not all(x1 < t[0] or x0 > t[1] or z1 < t[2] or z0 > t[3] for t in self.taken):
            return False
        steps = np.arange(5) / 4
        kinds = self.ground.kind(x0 + (x1 - x0) * steps, z0 + (z1 - z0) * steps[:, None])
        return bool((kinds == GRASS).all())

    def building(self, x: tuple[float, float], z: tuple[float, float], height: float) -> None:
        """Add a building if the place is free."""
        x, z, height = (float(x[0]), float(x[1])), (float(z[0]), float(z[1])), float(height)
        if not self.free(*x, *z):
            return
        self.taken.append((x[0] - 1, x[1] + 1, z[0] - 1, z[1] + 1))
        facade = _facade(self.rng, height, bool(self.canvas.light.sun[1] < 0.35))
        foot = np.array([(x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1])])
        # the outline of base and tip together does not contain the nearest corner of one and the
        # farthest corner of the other
        reach = foot @ np.sign(self.throw)
        rest = np.arange(4)
        tip = (foot + self.throw * height)[rest != reach.argmin()]
        outline = np.concatenate([foot[rest != reach.argmax()], tip])
        spokes = outline - outline.mean(0)
        shadow = outline[np.arctan2(spokes[:, 1], spokes[:, 0]).argsort()]
        self.things.append(_Thing(z[0], partial(paint_building, self.canvas, facade, x, z, height), [shadow]))

    def tree(self, x: float, z: float, height: float, albedo: Floats, conifer: bool) -> None:
        """Add a tree if there is room for its trunk."""
        if z < 6 or not self.free(x - 0.4, x + 0.4, z - 0.4, z + 0.4):
            return
        turn = np.linspace(0, 2 * np.pi, 9)
        crown = np.stack([np.cos(turn), np.sin(turn)], 1) * height * 0.28 + (x, z) + self.throw * height * 0.6
        trunk = np.array([(x - 0.1, z), (x + 0.1, z), *((x, z) + self.throw * height * 0.6 + [(0.1, 0), (-0.1, 0)])])
        paint = partial(paint_tree, self.canvas, self.rng, (x, z), height, albedo, conifer)
        self.things.append(_Thing(z, paint, [crown, trunk]))

    def car(self, x: float, z: float, heading: float) -> None:
        """Add a car."""
        albedo = _pick(
            self.rng,
            *((0.85, 0.85, 0.86), (0.55, 0.57, 0.6), (0.1, 0.1, 0.12), (0.66, 0.1, 0.1), (0.14, 0.25, 0.5)),
            *((0.3, 0.4, 0.25), (0.75, 0.6, 0.2), (0.45, 0.3, 0.22), (0.5, 0.68, 0.8), (0.3, 0.3, 0.33)),
        )
        along = np.array([np.cos(heading), np.sin(heading)]) * 2.2
        side = np.array([-along[1], along[0]]) * 0.45
        foot = np.stack([along + side, along - side, -along - side, -along + side]) + np.array([x, z])
        tall = float(self.rng.uniform(0.95, 1.3))
        paint = partial(paint_car, self.canvas, (x, z), heading, albedo, tall)
        self.things.append(_Thing(z, paint, [foot, foot + self.throw * 0.8]))


def _build(p: _Planner, town: bool) -> None:
    """Add buildings: two rows along the street of a town, or a few scattered ones."""
    rng, g = p.rng, p.ground
    if town and g.road:
        shift, slope, _, half = g.road
        tallest = rng.choice([7.0, 14.0, 24.0])
        for side in (-1, 1):
            z, gap = rng.uniform(8, 22), rng.uniform(0.6, 5)
            while z < 85 and rng.random() > 0.04:
                deep, wide, height = rng.uniform(8, 16), rng.uniform(8, 16), tallest * rng.uniform(0.6, 1.15)
                edge = shift + side * (half + g.walk + gap) + max(side * slope * z, side * slope * (z + deep)) * side
                p.building((edge, edge + wide) if side > 0 else (edge - wide, edge), (z, z + deep), height)
                z += deep + rng.choice([0.2, 2.5, 7.0])
    for _ in range(int(rng.choice([0, 0, 2, 4, 7] if not town else [0, 3]))):
        z = np.exp(rng.uniform(3.0, 4.8))
        x, wide = rng.uniform(-0.65, 0.65) * z, rng.uniform(7, 16)
        height = rng.uniform(4.5, 8) if rng.random() < 0.6 else rng.uniform(9, 14 + 0.25 * z)
        p.building((x - wide / 2, x + wide / 2), (z, z + rng.uniform(7, 12)), height)


def _plant(p: _Planner, town: bool) -> None:
    """Add trees: an avenue along the road, a wood, and single trees on the grass."""
    rng, g = p.rng, p.ground
    palette = [
        _pick(rng, (0.22, 0.36, 0.14), (0.28, 0.42, 0.16), (0.17, 0.30, 0.15), (0.36, 0.44, 0.17)),
        _pick(rng, (0.20, 0.34, 0.13), (0.62, 0.42, 0.12), (0.62, 0.26, 0.12), (0.32, 0.42, 0.16), (0.15, 0.27, 0.2)),
    ]
    needles = rng.random() < 0.3
    if g.road and rng.random() < 0.4:
        aside, step, size = g.road[3] + g.walk + 1.2, rng.uniform(7, 13), rng.uniform(4.5, 8)
        for z in np.arange(rng.uniform(9, 15), 75, step):
            for side in (-1, 1):
                x = -float(g.across(0.0, z)) + side * aside
                p.tree(x, float(z), size * rng.uniform(0.85, 1.15), palette[0], False)
    if rng.random() < 0.6:
        left, right = sorted(rng.uniform(-150, 390, 2).tolist())
        far, high, tint = float(np.exp(rng.uniform(4.3, 5.3))), float(rng.uniform(7, 15)), palette[int(rng.integers(2))]
        edge = partial(paint_treeline, p.canvas, far, high, tint, (left, right))
        p.things.append(_Thing(far, edge, []))
    for _ in range(int(rng.integers(1, 5) if town else rng.integers(3, 13))):
        z = float(np.exp(rng.uniform(2.3, 4.4)))
        conifer = bool(needles and rng.random() < 0.7)
        height = rng.uniform(7, 13) if conifer else rng.choice([rng.uniform(1.2, 2.5), rng.uniform(4.5, 10)])
        p.tree(
            float(rng.uniform(-0.68, 0.68) * z),
            z,
            float(height),
            palette[0 if conifer else int(rng.integers(2))],
            conifer,
        )


def _drive(p: _Planner) -> None:
    """Add cars: in both lanes, at the kerb, and on the crossing road."""
    rng, g = p.rng, p.ground
    if not g.road:
        return
    _, slope, bend, half = g.road
    z = rng.uniform(8, 14)
    while z < 60 and rng.random() < 0.75:
        lane = rng.choice([-0.5, 0.5, -0.82, 0.82]) * half
        heading = np.arctan2(1.0, slope + 2 * bend * z) + (np.pi if lane < 0 else 0)
        p.car(float(lane - g.across(0.0, z)), float(z), float(heading))
        z += rng.uniform(5, 14)
    if g.cross is not None:
        for lane in (-0.5, 0.5):
            if rng.random() < 0.7:
                p.car(float(rng.uniform(-0.5, 0.5) * g.cross), g.cross + lane * half, 0.0 if lane < 0 else np.pi)


def _backdrop(rng: Rng, canvas: Canvas) -> None:
    """Paint sky, clouds and distant hills."""
    paint_sky(canvas)
    if rng.random() < 0.85:
        paint_clouds(canvas, rng.uniform(-0.9, 0.7), rng.uniform(0.6, 1.3))
    green = _pick(rng, (0.22, 0.36, 0.16), (0.30, 0.38, 0.18), (0.18, 0.30, 0.18))
    for depth in (800.0, 450.0, 260.0):
        if rng.random() < 0.5:
            label = TREE if rng.random() < 0.6 else GRASS
            albedo = green if label == TREE else mix(green, rgb(0.5, 0.52, 0.25), 0.6)
            paint_hill(canvas, rng.uniform(1, 3500 / depth), rng.uniform(2, 7), depth, albedo, label)


def compose(rng: Rng) -> Canvas:
    """Plan a random scene and paint it from far to near."""
    town = bool(rng.random() < 0.5)
    eye = float(np.exp(rng.uniform(0.6, 1.9)))
    canvas = Canvas(_light(rng), float(rng.uniform(48, 92)), eye, rng.uniform(0, 256, 4).astype(np.float32))
    ground = _ground(rng, town)
    planner = _Planner(rng, canvas, ground)
    _build(planner, town)
    _plant(planner, town)
    _drive(planner)
    _backdrop(rng, canvas)
    things = sorted(planner.things, key=lambda t: -t.z)
    paint_ground(canvas, ground, [s for t in things for s in t.shadows], 0.85)
    wet_until = ground.water[1] * 0.9 if ground.water else 0.0
    for thing in things:
        if thing.z > wet_until:
            thing.paint()
    paint_water(canvas, ground)
    for thing in things:
        if thing.z <= wet_until:
            thing.paint()
    return canvas
