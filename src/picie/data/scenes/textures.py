"""Tiling noise textures and colour helpers for the scenes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

Floats = npt.NDArray[np.float32]
TILE = 256


def rgb(*values: float) -> Floats:
    """A colour, (3, 1, 1) float32.

    Channels come first, which is several times faster than channels last.
    """
    return np.array(values, np.float32)[:, None, None]


def mix(a: Any, b: Any, t: Any) -> Any:
    """Linear blend from `a` (t = 0) to `b` (t = 1)."""
    return a + (b - a) * t


@lru_cache(maxsize=1)
def _textures() -> dict[str, Floats]:
    """Tiling noises, (256, 256) float32 with mean 0 and standard deviation 1.

    All scenes share them, each with its own offset.
    """
    rng = np.random.default_rng(20)
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE), indexing="ij")
    k = np.hypot(fx, fy) + 1e-3
    seeds = rng.uniform(0, TILE, (900, 2))
    grid = np.stack(np.meshgrid(np.arange(TILE), np.arange(TILE), indexing="ij"), -1).reshape(-1, 2)
    cells = -spatial.cKDTree(seeds, boxsize=TILE).query(grid)[0].reshape(TILE, TILE)
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
    """Nearest-neighbour lookup of a noise at texel coordinates, for fine detail."""
    found: Floats = _textures()[name][v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)]
    return found


def smooth(name: str, u: Any, v: Any) -> Floats:
    """Lookup of a noise upsampled twice, for magnified texture.

    A lookup in a table with four values per texel is faster than interpolation.
    """
    size = 2 * TILE - 1
    u, v = np.asarray(2 * u, np.float32), np.asarray(2 * v, np.float32)
    found: Floats = _refined()[name][v.astype(np.int32) & size, u.astype(np.int32) & size]
    return found
