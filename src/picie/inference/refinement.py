"""Labels whose borders follow the edges of the picture: `picie predict --refine`.

The probabilities of the clusters are enlarged to the picture's own resolution, and each is filtered
by a guided filter (He, Sun and Tang, 2013), which fits it by a linear function of the picture's
colours around each pixel.

Shapes: K clusters, h w feature cells, H W pixels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from picie.data.rasters import Raster
from picie.errors import InputError
from picie.inference.enlarging import cells_near, enlarged_argmax
from picie.inference.outputs import Maps
from picie.inference.segmenter import Segmenter
from picie.inference.tiles import Tiling, all_cells, enlarged_rows

# Radius of the filter: a share of the short side of a picture that is computed whole, and of that of
# a training view with tiles. On CamVid's training pictures smaller and larger ones gain less mIoU.
_RADIUS = 1 / 8
_EPS = 1e-3  # variance of colours in [0, 1] below which the picture counts as flat
_DETAIL = 8  # the fit is computed at a resolution at which the radius has about so many pixels
_BLOCK = 768  # pixels, side of the parts that are filtered at once, without their surroundings


def check_available() -> None:
    """Raise `InputError` unless kornia is installed (the extra `refine`)."""
    if importlib.util.find_spec("kornia") is None:
        raise InputError("--refine needs kornia; pip install 'picie[refine]'")


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
        clusters = refined_clusters(probabilities, guide, (top, bottom), cells.step, round(radius))
        yield Maps(segmenter.values(clusters.cpu().numpy()), maps.margin)
        top = bottom


def refined_clusters(
    probabilities: Tensor, guide: Raster, rows: tuple[int, int], step: tuple[float, float], radius: int
) -> Tensor:
    """Return (n, W) int64 the most probable cluster of each pixel of some rows.

    Args:
        probabilities: (K, h, w) float32 of the cells of the whole picture.
        guide: the picture.
        rows: the first row, and the row after the last.
        step: (rows, columns) of cells per pixel.
        radius: of the filter, in pixels; a picture that is smaller gets a smaller one.
    """
    from kornia.filters import guided_blur

    _, h, w = probabilities.shape
    height, width = guide.height, guide.width
    radius = min(radius, (min(height, width) - 1) // 2)
    if radius < 2:  # a picture of a few pixels
        return enlarged_argmax(probabilities[None], (height, width))[0, slice(*rows)]
    coarse = max(1, radius // _DETAIL)
    # multiples of `coarse`, so that the cells of the fit are the same in all parts
    margin = -(-2 * radius // coarse) * coarse
    block = -(-_BLOCK // coarse) * coarse
    result = torch.empty(rows[1] - rows[0], width, dtype=torch.int64, device=probabilities.device)
    for top in range(rows[0], rows[1], block):
        bottom = min(top + block, rows[1])
        first, last = max(0, (top - margin) // coarse * coarse), min(bottom + margin, height)
        colors = torch.from_numpy(guide.rows(first, last)[0].copy()).to(probabilities).permute(2, 0, 1)[None] / 255
        near_rows, down = cells_near(first, last, step[0], 0, h)
        for left in range(0, width, block):
            right = min(left + block, width)
            start, end = max(0, left - margin), min(right + margin, width)
            near_columns, across = cells_near(start, end, step[1], 0, w)
            part = down.to(probabilities) @ probabilities[:, near_rows, near_columns] @ across.T.to(probabilities)
            filtered = guided_blur(colors[..., start:end], part[None], 2 * radius + 1, _EPS, subsample=coarse)[0]
            inner = filtered[:, top - first : bottom - first, left - start : right - start]
            result[top - rows[0] : bottom - rows[0], left:right] = inner.max(0).indices
    return result
