"""The regions of a label map: segments and their connected components, as runs of pixels.

Pixel coordinates: x to the right and y down, in pixels. The upper left pixel covers [0, 1] x [0, 1].
Components are 4-connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Region:
    """A set of pixels of one segment.

    Attributes:
        value: the segment's value.
        rows: (R,) the row of each horizontal run of pixels.
        first: (R,) the first column of each run.
        end: (R,) the column after the last of each run.
    """

    value: int
    rows: np.ndarray
    first: np.ndarray
    end: np.ndarray

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int((self.end - self.first).sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the bounding box."""
        left, top = int(self.first.min()), int(self.rows.min())
        return left, top, int(self.end.max()) - left, int(self.rows.max()) + 1 - top

    @property
    def centroid(self) -> tuple[float, float]:
        """(x, y) of the centre of mass."""
        lengths = self.end - self.first
        x = ((self.first + self.end) / 2 * lengths).sum() / self.area
        return float(x), float(((self.rows + 0.5) * lengths).sum() / self.area)

    def mask(self) -> np.ndarray:
        """Return the pixels within the box, (height, width) bool."""
        left, top, width, height = self.box
        steps = np.zeros(height * width + 1, np.int8)
        offset = (self.rows - top) * width - left
        np.add.at(steps, self.first + offset, 1)
        np.add.at(steps, self.end + offset, -1)
        return steps[:-1].cumsum(dtype=np.int8).view(bool).reshape(height, width)

    def filled(self) -> Region:
        """Return the region with its holes, which are pixels that it encloses."""
        left, top, _, _ = self.box
        background, _ = ndimage.label(~np.pad(self.mask(), 1))
        return region_of_mask(self.value, background[1:-1, 1:-1] != background[0, 0], left, top)


def region_of_mask(value: int, mask: np.ndarray, left: int = 0, top: int = 0) -> Region:
    """Return the region of the pixels in `mask` (H, W), whose upper left corner is (left, top)."""
    rows, first, end = _runs(mask)
    return Region(value, rows + top, first + left, end + left)


def find_regions(
    labels: np.ndarray, n_segments: int, per_component: bool = False, min_area: int = 0, fill_holes: bool = False
) -> list[Region]:
    """Find the segments of a label map, or their components.

    Args:
        labels: (H, W) unsigned integers. Values from `n_segments` on belong to no segment.
        n_segments: the number of segments.
        per_component: return one region for each component, instead of one for each segment.
        min_area: leave out components of fewer pixels.
        fill_holes: add the holes of each component to it. Regions may then overlap.

    Returns:
        The regions, by value; components of one value from large to small.
    """
    values, rows, first, end = _all_runs(labels)
    component = _connect(labels, rows, first, values)
    areas = np.bincount(component, weights=end - first)
    keep = (values < n_segments) & (areas[component] >= min_area)
    values, rows, first, end, component = (array[keep] for array in (values, rows, first, end, component))
    order = np.lexsort((component, -areas[component], values))
    values, rows, first, end, component = (array[order] for array in (values, rows, first, end, component))
    begins, ends = np.flatnonzero(np.diff(component, prepend=-1)), np.flatnonzero(np.diff(component, append=-1)) + 1
    parts = [Region(int(values[a]), rows[a:b], first[a:b], end[a:b]) for a, b in zip(begins, ends, strict=True)]
    if fill_holes:
        parts = [part.filled() for part in parts]
    return parts if per_component else _segments(parts, overlap=fill_holes)


def _segments(parts: Sequence[Region], overlap: bool) -> list[Region]:
    """Join the components of each value; `overlap` says whether they may share pixels."""
    groups: dict[int, list[Region]] = {}
    for part in parts:
        groups.setdefault(part.value, []).append(part)
    segments = []
    for value, group in groups.items():
        joined = [np.concatenate([getattr(part, key) for part in group]) for key in ("rows", "first", "end")]
        segment = Region(value, *joined)
        if overlap and len(group) > 1:
            left, top, width, height = segment.box
            mask = np.zeros((height, width), bool)
            for part in group:
                x, y, w, h = part.box
                mask[y - top : y - top + h, x - left : x - left + w] |= part.mask()
            segment = region_of_mask(value, mask, left, top)
        segments.append(segment)
    return segments


def _all_runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(value, row, first column, column after the last) of the horizontal runs, in reading order."""
    width = labels.shape[1]
    starts = np.flatnonzero(_is_start(labels))
    lengths = np.diff(starts, append=labels.size)
    rows, first = np.divmod(starts, width)
    return labels.reshape(-1)[starts], rows, first, first + lengths


def _is_start(labels: np.ndarray) -> np.ndarray:
    starts = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=starts[:, 1:])
    return starts


def _connect(labels: np.ndarray, rows: np.ndarray, first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the component of each run.

    Runs of two rows that touch have a common column where one of them starts.
    """
    width, starts = labels.shape[1], _is_start(labels)
    upper = np.flatnonzero((labels[1:] == labels[:-1]) & (starts[1:] | starts[:-1]))
    positions = rows * width + first
    pairs = [np.searchsorted(positions, upper + shift, "right") - 1 for shift in (0, width)]
    touching = coo_array((np.ones(len(upper), bool), (pairs[0], pairs[1])), shape=(len(values), len(values)))
    return np.asarray(connected_components(touching, directed=False)[1])


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, first column, column after the last) of the horizontal runs of true pixels."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).view(np.int8), axis=1)
    rows, first = np.nonzero(steps == 1)
    return rows, first, np.nonzero(steps == -1)[1]


def run_lengths(mask: np.ndarray, left: int, top: int, shape: tuple[int, int]) -> list[int]:
    """Encode a mask in reading order, as numbers of pixels alternately outside and inside.

    Args:
        mask: (h, w) bool, a part of a picture.
        left: the column of its left side.
        top: the row of its upper side.
        shape: (H, W) of the picture.

    Returns:
        The lengths, which sum to H * W. The first may be 0.

    >>> run_lengths(np.array([[True, False], [True, True]]), left=1, top=0, shape=(2, 3))
    [1, 1, 2, 2]
    """
    rows, first, end = _runs(mask)
    offset = (rows + top) * shape[1] + left
    ends = np.stack([first + offset, end + offset], axis=1).reshape(-1)
    meets = np.flatnonzero(ends[1:-1:2] == ends[2::2])  # one run ends at the right side, the next begins at the left
    ends = np.delete(ends, [*(2 * meets + 1), *(2 * meets + 2)])
    lengths = np.diff(ends, prepend=0, append=shape[0] * shape[1])
    return list(map(int, lengths[:-1] if lengths[-1] == 0 and len(lengths) > 1 else lengths))
