"""Outlines: exact without simplification, a coverage without gaps with it, one ring with holes."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize
from scipy import ndimage

from picie.conversion.base import ConvertOptions
from picie.conversion.polygons import find_outlines, one_ring
from picie.conversion.regions import find_regions


def smooth_map(seed: int = 0) -> np.ndarray:
    """A label map (90, 120) of five values with curved borders."""
    fields = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(5, 90, 120)), (0, 8, 8))
    return fields.argmax(axis=0).astype(np.uint8)


@pytest.mark.parametrize("tolerance", [1.0, 3.0])
def test_simplified_outlines_cover_the_picture_once(tolerance: float) -> None:
    labels = smooth_map()
    exact = find_outlines(labels, 5, ConvertOptions(tolerance=0))
    outlines = find_outlines(labels, 5, ConvertOptions(tolerance=tolerance))
    shapes = [outline.geometry() for outline in outlines]
    assert all(shape.is_valid for shape in shapes)
    assert sum(shape.area for shape in shapes) == pytest.approx(labels.size)
    assert shapely.union_all(shapes).area == pytest.approx(labels.size)
    corners = [shapely.get_num_coordinates([outline.geometry() for outline in some]).sum() for some in (exact, outlines)]
    assert corners[1] < 0.6 * corners[0]  # of a staircase every other corner stays
    drawn = rasterize([(outline.geometry(), outline.value) for outline in outlines], labels.shape, 9, dtype="uint8")
    # A pixel that changes lies within the tolerance, and a pixel's diagonal, of a border.
    borders = np.zeros(labels.shape, bool)
    borders[1:] |= labels[1:] != labels[:-1]
    borders[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    distance = ndimage.distance_transform_edt(~borders)
    assert distance[drawn != labels].max() <= 2 * tolerance + 1.5
    assert (drawn == labels).mean() > 1 - 0.02 * tolerance


def test_one_ring_leads_around_every_hole() -> None:
    labels = np.zeros((40, 50), np.uint8)
    for number in range(60):
        rng = np.random.default_rng(number)
        top, left = rng.integers(1, 36), rng.integers(1, 46)
        labels[top : top + rng.integers(1, 4), left : left + rng.integers(1, 4)] = 1
    (outline,) = [o for o in find_outlines(labels, 1, ConvertOptions(tolerance=0, per="component")) if o.parts[0].area > 100]
    (polygon,) = outline.parts
    assert len(polygon.interiors) > 10
    ring = one_ring(polygon)
    x, y = ring.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    numbered, _ = ndimage.label(labels == 0)
    assert area == polygon.area == np.bincount(numbered.ravel())[1:].max()
    assert {tuple(corner) for corner in shapely.get_coordinates(polygon)} <= {tuple(corner) for corner in ring}


def test_filled_and_small_outlines_are_those_of_the_masks() -> None:
    labels = smooth_map(3)
    labels[40:44, 50:53] = 7
    for per in ("component", "segment"):
        options = ConvertOptions(tolerance=0, per=per, min_area=30, fill_holes=True)
        regions = find_regions(labels, 5, per == "component", 30, fill_holes=True)
        outlines = find_outlines(labels, 5, options)
        assert sorted((o.value, o.geometry().area) for o in outlines) == sorted((r.value, r.area) for r in regions)


def test_without_a_segment_there_is_no_outline() -> None:
    assert find_outlines(np.full((3, 4), 255, np.uint8), 2, ConvertOptions()) == []
