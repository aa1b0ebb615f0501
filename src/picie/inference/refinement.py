"""Labels whose borders follow the edges of the picture: `picie predict --refine`.

The probabilities of the clusters are filtered by a guided filter, which fits each of them by a linear
function of the picture's colours around each pixel (He, Sun and Tang, 2013). The fits are computed on
a reduced picture, and applied to the colours of all pixels (He and Sun, "Fast guided filter", 2015).

Shapes: K clusters, h w feature cells, H W pixels, m n pixels of the reduced picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from picie.clustering.guided_filter import guided_fits
from picie.data.rasters import Raster, scaled_rows
from picie.inference.enlarging import cells_near, enlarged_argmax
from picie.inference.outputs import Maps
from picie.inference.segmenter import Segmenter
from picie.inference.tiles import Tiling, all_cells, enlarged_rows

# Radius of the filter: a share of the short side of a picture that is computed whole, and of that of
# a training view with tiles. On CamVid's training pictures smaller and larger ones gain less mIoU.
_RADIUS = 1 / 8
_EPS = 1e-3  # variance of colours in [0, 1] below which the picture counts as flat
_DETAIL = 8  # pixels of the reduced picture per radius
_ENLARGED = 2**22  # numbers of the fits that are enlarged at once: 16 MB


@torch.inference_mode()
def refined_rows(segmenter: Segmenter, raster: Raster, guide: Raster, tiling: Tiling | None, margin: bool) -> Iterator[Maps]:
    """Yield the refined maps of a picture, some rows at a time, from top to bottom.

    The logits of all its cells are in memory.

    Args:
        segmenter: the network and its segments.
        raster: the picture.
        guide: the same picture, opened once more if it is read from a file.
        tiling: how to cut it into tiles; None computes it whole.
        margin: whether to compute the margin, too; it is that of the labels before they are
            refined.
    """
    cells = all_cells(segmenter, raster, tiling)
    probabilities = (cells.logits / segmenter.mixture.temperature).softmax(0)
    short, top = min(raster.height, raster.width), 0
    radius = _RADIUS * short
    if tiling is not None:
        radius = _RADIUS * segmenter.config.views.size * (1 if tiling.size is None else short / tiling.size)
    for maps in enlarged_rows(segmenter, raster, [cells], margin):
        bottom = top + len(maps.labels)
        clusters = refined_clusters(probabilities, guide, (top, bottom), cells.step, radius)
        yield Maps(segmenter.values(clusters.cpu().numpy()), maps.margin)
        top = bottom


def refined_clusters(
    probabilities: Tensor, guide: Raster, rows: tuple[int, int], step: tuple[float, float], radius: float
) -> Tensor:
    """Return (n, W) int64 the most probable cluster of each pixel of some rows.

    Args:
        probabilities: (K, h, w) float32 of the cells of the whole picture.
        guide: the picture.
        rows: the first row, and the row after the last.
        step: (rows, columns) of cells per pixel.
        radius: of the filter, in pixels.
    """
    if radius < 2:  # a picture of a few pixels
        return enlarged_argmax(probabilities[None], (guide.height, guide.width))[0, slice(*rows)]
    by, side = max(1.0, radius / _DETAIL), round(min(radius, _DETAIL))
    size = (max(1, round(guide.height / by)), max(1, round(guide.width / by)))
    scale = (size[0] / guide.height, size[1] / guide.width)
    # the rows of the reduced picture that the fits of `rows` depend on
    first = max(0, math.floor(rows[0] * scale[0]) - 2 * side - 1)
    last = min(size[0], math.ceil(rows[1] * scale[0]) + 2 * side + 1)
    near_rows, down = cells_near(first, last, step[0] / scale[0], 0, probabilities.shape[1])
    near_columns, across = cells_near(0, size[1], step[1] / scale[1], 0, probabilities.shape[2])
    reduced = down.to(probabilities) @ probabilities[:, near_rows, near_columns] @ across.T.to(probabilities)
    fits = _fits(_colors(scaled_rows(guide, size, first, last)[0], reduced), reduced, side)
    near_columns, across = cells_near(0, guide.width, scale[1], 0, size[1])
    fits, across = fits[..., near_columns], across.T.to(fits)
    result = torch.empty(rows[1] - rows[0], guide.width, dtype=torch.int64, device=fits.device)
    at_once = max(1, _ENLARGED // (4 * len(fits) * guide.width))
    for top in range(*rows, at_once):
        bottom = min(top + at_once, rows[1])
        colors = _colors(guide.rows(top, bottom)[0], fits)
        near, down = cells_near(top, bottom, scale[0], first, fits.shape[2])
        enlarged = down.to(fits) @ fits[:, :, near] @ across
        filtered = (enlarged[:, :3] * colors).sum(1) + enlarged[:, 3]
        result[top - rows[0] : bottom - rows[0]] = filtered.max(0).indices
    return result


def _fits(colors: Tensor, values: Tensor, radius: int) -> Tensor:
    """Fit `values` (K, m, n) by linear functions of `colors` (3, m, n) around each pixel.

    Returns:
        (K, 4, m, n) the three slopes and the offset, averaged over the surroundings.
    """
    slopes, offsets = guided_fits(values[None], colors[None], radius, _EPS)
    return torch.cat([slopes[0].transpose(0, 1), offsets[0][:, None]], dim=1)


def _colors(pixels: np.ndarray, like: Tensor) -> Tensor:
    """(3, H, W) colours in [0, 1] of (H, W, 3) uint8 pixels."""
    return torch.from_numpy(pixels.copy()).to(like).permute(2, 0, 1) / 255
