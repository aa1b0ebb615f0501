"""Repaints a scene as it looks in winter: a season and a light that the other splits lack."""

from __future__ import annotations

import numpy as np

from picie.data.scenes.canvas import CLOUD, GRASS, ROAD, SKY, TREE, Canvas, Mask, Rng
from picie.data.scenes.textures import Floats, rgb

_LUMINANCE = rgb(0.299, 0.587, 0.114)


def snow(c: Canvas, rng: Rng) -> None:
    """Repaint `c` in place; labels and depths stay.

    Snow covers the grass and some of the trees, leaves are brown, roads are wet, the sky is
    overcast, and the light is cold and between dim and bright.
    """
    cover, dim = rng.uniform(0.55, 0.95), np.float32(rng.uniform(0.45, 1.0))
    _mix(c, c.label == GRASS, rgb(0.80, 0.84, 0.92), cover)
    _mix(c, c.label == TREE, rgb(0.34, 0.27, 0.24), rng.uniform(0.6, 0.9))
    _mix(c, (c.label == TREE) & (_grey(c.rgb) > 0.35), rgb(0.85, 0.88, 0.94), cover)
    _mix(c, c.label == ROAD, rgb(0.20, 0.21, 0.25), rng.uniform(0.2, 0.6))
    _mix(c, (c.label == SKY) | (c.label == CLOUD), rgb(0.70, 0.74, 0.82), rng.uniform(0.3, 0.6))
    c.rgb *= rgb(0.92, 0.98, 1.10) * dim


def _mix(c: Canvas, mask: Mask, color: Floats, share: float) -> None:
    """Mix `color` into the pixels of `mask`, as bright as each pixel is relative to the others."""
    if not mask.any():
        return
    grey = _grey(c.rgb)
    relief = np.clip(grey / max(float(grey[mask].mean()), 1e-3), 0.5, 1.5)
    mixed = c.rgb + np.float32(share) * (color * relief - c.rgb)
    np.copyto(c.rgb, mixed.astype(np.float32), where=mask)


def _grey(image: Floats) -> Floats:
    grey: Floats = (image * _LUMINANCE).sum(0)
    return grey
