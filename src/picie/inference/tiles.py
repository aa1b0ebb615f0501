"""Labels of pictures of any size, some rows at a time.

A picture is computed whole, at a short side of a few hundred pixels, or in overlapping tiles. The
logits of tiles are blended where they overlap: each tile's weight is zero in the outer quarter of
the overlap, where its border affects its features, and grows linearly over the middle half. If
each feature depends on pixels within a quarter of the overlap only, the result is therefore that
of the whole picture, whatever the size of the tiles.

Shapes: K clusters, h w feature cells of a tile, H W pixels of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from picie.data.images import whole_size
from picie.data.rasters import Raster, scaled_rows
from picie.errors import InputError
from picie.inference.enlarging import Axis, cells_near, is_sparse, labels_between
from picie.inference.outputs import Maps, Mixture
from picie.inference.segmenter import Segmenter
from picie.methods.base import Method
from picie.methods.losses import prototype_logits

_PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**24}  # pixels of the tiles that are computed at once
_LOGITS = 2**20  # logits that are enlarged at once: 4 MB, which fit a CPU's cache
_OUTPUT_PIXELS = 2**23  # pixels of the label map that are yielded at once
_MAX_SIDE = 2**16


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles.

    Attributes:
        side: the side of a tile in pixels of the picture that is computed.
        overlap: pixels that neighbouring tiles share.
        size: the short side of the picture that is computed; None: its own.
        unit: tiles start at multiples of this number of pixels, the network's coarsest stride.
    """

    side: int
    overlap: int
    size: int | None = None
    unit: int = 32

    def __str__(self) -> str:
        resolution = "own resolution" if self.size is None else f"short side {self.size}"
        return f"tiles of {self.side} px, overlap {self.overlap}, {resolution}"


def make_tiling(segmenter: Segmenter, side: int, overlap: int | None, size: int | None) -> Tiling:
    """Check the options of a `Tiling`.

    By default `overlap` is a quarter of the side, or the network's coarsest stride if that is more;
    tiles of a single stride do not overlap.

    Raises:
        InputError: `side` or `overlap` does not suit the network.
    """
    method = segmenter.method
    unit = max(method.network.backbone.strides) if isinstance(method, Method) else 32
    if not unit <= side <= _MAX_SIDE or side % unit:
        raise InputError(f"--tile {side}: give a multiple of {unit}, this network's coarsest stride, up to {_MAX_SIDE}")
    if overlap is None:
        overlap = min(max(unit, side // 4 // unit * unit), side // 2 // unit * unit)
    if not 0 <= overlap <= side // 2 or overlap % unit:
        raise InputError(f"--overlap {overlap}: give a multiple of {unit}, at most half of --tile, {side // 2}")
    return Tiling(side, overlap, size, unit)


def map_rows(segmenter: Segmenter, raster: Raster, tiling: Tiling | None, margin: bool = False) -> Iterator[Maps]:
    """Yield the maps of a picture, some rows at a time, from top to bottom.

    Args:
        segmenter: the network and its segments.
        raster: the picture.
        tiling: how to cut it into tiles; None computes it whole at `Config.predict_size`.
        margin: whether to compute the margin, too.

    Yields:
        The maps (n, W) of some rows. Where the raster has no data they are arbitrary.
    """
    yield from enlarged_rows(segmenter, raster, _strips(segmenter, raster, tiling), margin)


def all_cells(segmenter: Segmenter, raster: Raster, tiling: Tiling | None) -> Strip:
    """Return the logits of all cells of a picture. The arguments are those of `map_rows`."""
    parts, done, step = [], 0, (1.0, 1.0)
    for strip in _strips(segmenter, raster, tiling):
        end = strip.logits.shape[1] if strip.final is None else strip.final - strip.first
        parts.append(strip.logits[:, done - strip.first : end].clone())
        done, step = strip.first + end, strip.step
    return Strip(0, torch.cat(parts, dim=1), None, step)


def _strips(segmenter: Segmenter, raster: Raster, tiling: Tiling | None) -> Iterator[Strip]:
    return _whole(segmenter, raster) if tiling is None else _Tiles(segmenter, raster, tiling).strips()


@dataclass(frozen=True)
class Strip:
    """Logits of some rows of cells of a picture.

    Attributes:
        first: the row of cells that `logits` begins with.
        logits: (K, n, w).
        final: rows of cells before this one are not changed by later strips; None: it is the last.
        step: (rows, columns) of cells per pixel of the picture.
    """

    first: int
    logits: Tensor
    final: int | None
    step: tuple[float, float]


@torch.inference_mode()
def _whole(segmenter: Segmenter, raster: Raster) -> Iterator[Strip]:
    size = whole_size(raster.height, raster.width, segmenter.config.predict_size)
    pixels, _ = scaled_rows(raster, size, 0, size[0])
    logits = _logits(segmenter, pixels[None])[0]
    _, h, w = logits.shape
    yield Strip(0, logits, None, (h / raster.height, w / raster.width))


def _logits(segmenter: Segmenter, pixels: np.ndarray) -> Tensor:
    """Return (B, K, h, w) logits of `pixels` (B, H, W, 3) uint8."""
    features = segmenter.encode(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))))
    return prototype_logits(features, *segmenter.classifier)


class _Tiles:
    """The tiles of a picture."""

    def __init__(self, segmenter: Segmenter, raster: Raster, tiling: Tiling) -> None:
        self.segmenter, self.raster, self.tiling = segmenter, raster, tiling
        size = (raster.height, raster.width)
        if tiling.size is not None:
            size = whole_size(*size, tiling.size, max_long=2**31)
        self.size = size
        # The tiles cover a multiple of their unit; beyond the picture its border is repeated.
        self.rows, self.columns = (_Axis.of(length, tiling) for length in size)

    @torch.inference_mode()
    def strips(self) -> Iterator[Strip]:
        """Yield the blended logits of each row of tiles."""
        kept, base = None, 0
        for index, top in enumerate(self.rows.starts):
            logits = self._row_of_tiles(top)
            cell = self.rows.side // logits.shape[1]
            weight = self.rows.weights(cell)[index].to(logits)
            logits *= weight[:, None]
            first = top // cell
            if kept is not None:
                shared = base + kept.shape[1] - first
                logits[:, :shared] += kept[:, first - base :]
                logits, first = torch.cat([kept[:, : first - base], logits], 1), base
            step = (self.size[0] / self.raster.height / cell, self.size[1] / self.raster.width / cell)
            if index + 1 == len(self.rows.starts):
                yield Strip(first, logits, None, step)
                return
            final = self.rows.starts[index + 1] // cell
            yield Strip(first, logits, final, step)
            base = max(first, final - 2 * math.ceil(max(1.0, step[0])) - 2)
            kept = logits[:, base - first :].clone()

    def _row_of_tiles(self, top: int) -> Tensor:
        """Return (K, h, w) logits of a row of tiles, blended along the row."""
        bottom = min(top + self.rows.side, self.size[0])
        pixels, valid = scaled_rows(self.raster, self.size, top, bottom)
        missing = (self.rows.side - len(pixels), self.columns.length - self.size[1])
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), "edge")
        side, starts = self.columns.side, self.columns.starts
        used = [i for i, left in enumerate(starts) if valid is None or valid[:, left : left + side].any()]
        batch = max(1, _PIXELS_PER_BATCH.get(self.segmenter.engine.device.type, 2**20) // (side * self.rows.side))
        result: Tensor | None = None
        for begin in range(0, max(1, len(used)), batch):
            part = used[begin : begin + batch] or [0]  # a row without data gives the shape alone
            logits = _logits(self.segmenter, np.stack([pixels[:, starts[i] : starts[i] + side] for i in part]))
            cell = side // logits.shape[3]
            if result is None:
                result = logits.new_zeros(logits.shape[1], logits.shape[2], self.columns.length // cell)
            weights = self.columns.weights(cell).to(logits)
            for i, tile in zip(part, logits, strict=True):
                result[:, :, starts[i] // cell : (starts[i] + side) // cell] += tile * weights[i]
        assert result is not None
        return result


@dataclass(frozen=True)
class _Axis:
    """Tiles along one axis: all of one side, the last one moved back to end with the picture.

    Attributes:
        length: pixels that are covered.
        side: the side of a tile.
        overlap: pixels that neighbouring tiles share, at least.
        starts: the first pixel of each tile.
    """

    length: int
    side: int
    overlap: int
    starts: tuple[int, ...]

    @staticmethod
    def of(length: int, tiling: Tiling) -> _Axis:
        length = -(-length // tiling.unit) * tiling.unit
        side = min(tiling.side, length)
        starts = (*range(0, length - side, tiling.side - tiling.overlap), length - side)
        return _Axis(length, side, tiling.overlap, starts)

    def weights(self, cell: int) -> Tensor:
        """Return (tiles, cells) weights of the cells of each tile; at each place they sum to 1."""
        n, size = len(self.starts), self.side // cell
        centre = (torch.arange(size, dtype=torch.float64) + 0.5) * cell
        ramps = [((d - self.overlap / 4) / max(1e-9, self.overlap / 2)).clamp(0, 1) for d in (centre, self.side - centre)]
        weights = torch.ones(n, size, dtype=torch.float64)
        weights[1:] *= ramps[0]
        weights[:-1] *= ramps[1]
        total = torch.zeros(self.length // cell, dtype=torch.float64)
        parts = [slice(start // cell, start // cell + size) for start in self.starts]
        for part, weight in zip(parts, weights, strict=True):
            total[part] += weight
        return torch.stack([weight / total[part] for part, weight in zip(parts, weights, strict=True)]).float()


def enlarged_rows(segmenter: Segmenter, raster: Raster, strips: Iterable[Strip], margin: bool) -> Iterator[Maps]:
    """Yield the maps of the pixels of `strips`, from top to bottom."""
    mixture = segmenter.mixture if margin else None
    small = len(segmenter.names) <= 256
    values = torch.from_numpy(segmenter.value_of_cluster).to(segmenter.engine.device, torch.uint8 if small else torch.int32)
    done, at_once = 0, max(1, _OUTPUT_PIXELS // raster.width)
    for strip in strips:
        step = strip.step[0]
        ready = raster.height if strip.final is None else math.floor((strip.final - max(1.0, step)) / step)
        while done < ready:
            bottom = min(done + at_once, ready)
            labels, margins = _maps(strip, (done, bottom), raster.width, values, mixture)
            array = labels.cpu().numpy() if small else labels.cpu().numpy().astype(np.uint16)
            yield Maps(array, None if mixture is None else margins.cpu().numpy())
            done = bottom


@torch.inference_mode()
def _maps(strip: Strip, rows: tuple[int, int], width: int, values: Tensor, mixture: Mixture | None) -> tuple[Tensor, Tensor]:
    """Return the `values` (n, W) of the largest of the logits, enlarged bilinearly to pixels.

    Also return the margin (n, W) uint8 of the segments' probabilities, which are those of
    `mixture`; if that is None, it is empty.
    """
    if mixture is None and is_sparse(*strip.step):
        axes = Axis(*rows, strip.step[0], strip.first), Axis(0, width, strip.step[1])
        labels = labels_between(strip.logits[None], *axes, values)[0]
        return labels, labels.new_empty(0, width, dtype=torch.uint8)
    labels = torch.empty(rows[1] - rows[0], width, dtype=values.dtype, device=values.device)
    margins = torch.empty(0 if mixture is None else len(labels), width, dtype=torch.uint8, device=values.device)
    logits, k = strip.logits, len(strip.logits)
    columns = max(1, min(width, math.ceil(32 / strip.step[1])))
    lines = max(1, _LOGITS // (k * columns))
    for top in range(rows[0], rows[1], lines):
        bottom = min(top + lines, rows[1])
        near_rows, vertical = cells_near(top, bottom, strip.step[0], strip.first, logits.shape[1])
        narrow = logits[:, near_rows]
        for left in range(0, width, columns):
            right = min(left + columns, width)
            near_columns, horizontal = cells_near(left, right, strip.step[1], 0, logits.shape[2])
            part = vertical.to(logits) @ narrow[:, :, near_columns] @ horizontal.T.to(logits)
            here = slice(top - rows[0], bottom - rows[0]), slice(left, right)
            labels[here] = values[part.max(0).indices]
            if mixture is not None:
                margins[here] = mixture.margin(part[None])[0]
    return labels, margins
