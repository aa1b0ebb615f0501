"""Painters of the sky, clouds, distant hills and trees."""

from __future__ import annotations

import numpy as np

from picie.data.scenes.canvas import CLOUD, FOCAL, TREE, WIDTH, Canvas, Rng
from picie.data.scenes.textures import TILE, Floats, mix, rgb, smooth, texel


def paint_sky(c: Canvas) -> None:
    """Paint a gradient from the horizon up, with a glow if the sun is in front of the camera."""
    rows = slice(0, int(c.horizon) + 2)
    up = np.clip((c.horizon - c.y[rows]) / 95, 0, 1) ** 0.7
    c.rgb[:, rows] = mix(c.light.horizon, c.light.zenith, up)
    if c.light.sun[2] > 0.15:
        at = FOCAL * c.light.sun[:2] / c.light.sun[2]
        d2 = (c.x - WIDTH / 2 - at[0]) ** 2 + (c.y[rows] - c.horizon + at[1]) ** 2
        glow = 0.35 * np.exp(-d2 / 5000) + 0.6 * np.exp(-d2 / 200)
        c.rgb[:, rows] += glow * np.minimum(c.light.warm, 1)


def paint_clouds(c: Canvas, cover: float, scale: float) -> None:
    """Paint clouds in perspective; `cover` is about -1 (few) to 1 (many)."""
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
    """Paint a distant ridge, wooded (label TREE) or meadow (GRASS).

    Args:
        c: the canvas.
        base: mean height of the crest above the horizon, in pixels.
        swing: standard deviation of that height, in pixels.
        depth: distance in metres.
        albedo: the ridge's colour.
        label: TREE or GRASS.
    """
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


def paint_tree(c: Canvas, rng: Rng, at: tuple[float, float], height: float, albedo: Floats, conifer: bool) -> None:
    """Paint a broadleaf of leafy clumps or a tiered conifer, with its trunk, at `at` (x, z)."""
    x, z = at
    scale, foot = FOCAL / z, c.horizon + FOCAL * c.eye / z
    center, wide = WIDTH / 2 + x * scale, height * (0.3 if conifer else 0.55)
    region = c.box(center - wide * scale, center + wide * scale, foot - height * 1.15 * scale, foot)
    if region is None:
        return
    px, py = c.x[:, region[1]], c.y[region[0]]
    u, v = (px - center) / (scale * height), (foot - py) / (scale * height)
    step, shift = 2.4 / max(1.0, scale / 14), rng.uniform(0, TILE, 2).astype(np.float32)
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
    """Paint the edge of a wood at distance `z` between two screen columns."""
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
