"""Outlines of the regions of a label map as polygons, in the pixel coordinates of `regions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from picie.conversion.base import ConvertOptions

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

PACKAGES = {"shapely": "geo", "rasterio": "geo"}


@dataclass(frozen=True)
class Outline:
    """The outline of a segment or of one of its components.

    Attributes:
        value: the segment's value.
        parts: its polygons, with holes; those of a segment may touch.
    """

    value: int
    parts: tuple[Polygon, ...]

    def geometry(self) -> Polygon | MultiPolygon:
        """The outline as one shapely geometry."""
        from shapely import MultiPolygon

        return self.parts[0] if len(self.parts) == 1 else MultiPolygon(self.parts)


def find_outlines(labels: np.ndarray, n_segments: int, options: ConvertOptions) -> list[Outline]:
    """Find the outlines of a label map.

    With `options.tolerance` 0 they follow the edges of the pixels. Otherwise they are simplified
    (Visvalingam-Whyatt) together, so that neighbours keep a common border.

    Args:
        labels: (H, W) uint8 or uint16. Values from `n_segments` on belong to no segment.
        n_segments: the number of segments.
        options: `per`, `min_area`, `tolerance` and `fill_holes`.

    Returns:
        The outlines, by value; components of one value from large to small.
    """
    import shapely
    from rasterio import features

    traced = list(features.shapes(labels, mask=labels < n_segments))  # 4-connected
    geometries = np.array([shapely.geometry.shape(geometry) for geometry, _ in traced], dtype=object)
    values = np.array([int(value) for _, value in traced], dtype=int)
    areas = shapely.area(geometries)
    if options.tolerance > 0 and len(geometries):
        # A border needs the same corners on both sides, also where only one side has a third neighbour.
        cornered = shapely.transform(shapely.segmentize(geometries, 1.0), np.round)
        # `coverage_simplify` returns holes in the orientation of the exterior.
        geometries = shapely.orient_polygons(shapely.coverage_simplify(cornered, options.tolerance))
    order = [i for i in np.lexsort((-areas, values)) if areas[i] >= options.min_area]
    outlines = [Outline(int(values[i]), (_filled(geometries[i]) if options.fill_holes else geometries[i],)) for i in order]
    return outlines if options.per == "component" else _segments(outlines, options.fill_holes)


def _filled(polygon: Polygon) -> Polygon:
    return type(polygon)(polygon.exterior)


def _segments(outlines: Sequence[Outline], overlap: bool) -> list[Outline]:
    """Join the components of each value; `overlap` says whether they may share pixels."""
    groups: dict[int, list[Polygon]] = {}
    for outline in outlines:
        groups.setdefault(outline.value, []).extend(outline.parts)
    if overlap:
        import shapely

        groups = {value: list(shapely.get_parts(shapely.union_all(parts))) for value, parts in groups.items()}
    return [Outline(value, tuple(parts)) for value, parts in groups.items()]


def one_ring(polygon: Polygon) -> np.ndarray:
    """Return the outline of a polygon with holes as one ring, for formats without holes.

    A cut of no width, horizontal, leads to each hole. By the even-odd rule the ring has the
    pixels of the polygon.

    Returns:
        (n, 2) x and y of the corners, without a repetition of the first.
    """
    rings = [np.asarray(ring.coords)[:-1] for ring in (polygon.exterior, *polygon.interiors)]
    # Each hole begins at its leftmost corner, from which its cut leads to the left.
    rings[1:] = [np.roll(hole, -int(np.lexsort((hole[:, 1], hole[:, 0]))[0]), axis=0) for hole in rings[1:]]
    rings[1:] = sorted(rings[1:], key=lambda hole: (hole[0, 0], hole[0, 1]))
    attached: list[dict[int, list[tuple[float, np.ndarray]]]] = [{} for _ in rings]  # by edge: distance, detour
    for number in range(len(rings) - 1, 0, -1):  # a hole hangs on a ring before it
        hole = _with_detours(rings[number], attached[number])
        ring, edge, place = _left_of(hole[0], rings[:number])
        detour = np.concatenate([[place], hole, hole[:1], [place]])
        distance = float(np.hypot(*(place - rings[ring][edge])))
        attached[ring].setdefault(edge, []).append((distance, detour))
    return _with_detours(rings[0], attached[0])


def _with_detours(ring: np.ndarray, attached: dict[int, list[tuple[float, np.ndarray]]]) -> np.ndarray:
    """Insert the detours attached to each edge of a ring, in the order of their distance."""
    pieces, done = [], 0
    for edge, detours in sorted(attached.items()):
        pieces += [ring[done : edge + 1], *(detour for _, detour in sorted(detours, key=lambda item: item[0]))]
        done = edge + 1
    return np.concatenate([*pieces, ring[done:]])


def _left_of(point: np.ndarray, rings: Sequence[np.ndarray]) -> tuple[int, int, np.ndarray]:
    """Find the nearest edge to the left of `point`: (ring, edge, the place on it)."""
    best: tuple[int, int, np.ndarray] | None = None
    for number, ring in enumerate(rings):
        start, end = ring, np.roll(ring, -1, axis=0)
        crossed = np.flatnonzero((np.minimum(start, end)[:, 1] <= point[1]) & (point[1] < np.maximum(start, end)[:, 1]))
        slope = (end[crossed, 0] - start[crossed, 0]) / (end[crossed, 1] - start[crossed, 1])
        x = start[crossed, 0] + slope * (point[1] - start[crossed, 1])
        x[x > point[0]] = -np.inf
        if len(x) and x.max() > (-np.inf if best is None else best[2][0]):
            best = number, int(crossed[x.argmax()]), np.array([x.max(), point[1]])
    if best is None:  # cannot happen in a valid polygon, except by rounding
        return 0, 0, rings[0][0]
    return best
