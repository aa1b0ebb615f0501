"""The painter of cars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from picie.data.scenes.canvas import CAR, Canvas, Light, value_range
from picie.data.scenes.textures import Floats, rgb

_BODY = ((-2.1, 0.35), (-2.1, 0.85), (-1.15, 0.98), (1.95, 1.0), (2.1, 0.8), (2.1, 0.35))
_CABIN = ((-1.2, 0.95), (-0.55, 1.48), (1.15, 1.5), (1.95, 0.98))
_WINDOW = ((-0.95, 1.02), (-0.45, 1.4), (1.05, 1.42), (1.65, 1.03))
_WHEEL = [(float(np.cos(t)), float(np.sin(t))) for t in np.linspace(0, 2 * np.pi, 10)]
_SUPER = 3
_Profile = Sequence[tuple[float, float]]


class _CarBody:
    """The faces of a car in its own coordinates in metres: backwards, up, and to the side."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float, float]] = []
        self.counts: list[int] = []
        self.colors: list[Floats] = []

    def flat(self, profile: _Profile, width: float, color: Floats) -> None:
        """Add a face parallel to the car, `width` metres off its axis."""
        self.points += [(p, h, width) for p, h in profile]
        self.counts.append(len(profile))
        self.colors.append(color)

    def span(self, p: tuple[float, float], q: tuple[float, float], w0: float, w1: float, color: Floats) -> None:
        """Add a face across the car, from offset `w0` to `w1`."""
        self.points += [(*p, w0), (*q, w0), (*q, w1), (*p, w1)]
        self.counts.append(4)
        self.colors.append(color)


def _car_faces(light: Light, albedo: Floats, near: float, away: bool) -> _CarBody:
    """The faces from far to near: underside, top, flank, end, cabin, panes, lights, wheels."""
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
    """Paint a car at `at` (x, z), pointing along `heading`: radians from the x to the z axis."""
    along, middle = np.array([np.cos(heading), np.sin(heading)]), np.array(at)
    side = np.array([-along[1], along[0]])
    car = _car_faces(c.light, albedo, -1.0 if side @ middle > 0 else 1.0, bool(along @ middle > 0))
    local = np.array(car.points)
    ground = middle - local[:, :1] * along + local[:, 2:] * side
    points = c.project(np.stack([ground[:, 0], local[:, 1] * tall, ground[:, 1]], 1))
    region = c.box(*value_range(points[:, 0]), *value_range(points[:, 1]))
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
