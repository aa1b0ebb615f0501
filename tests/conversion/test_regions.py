"""Runs, components and segments, against SciPy's labelling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from picie.conversion.regions import Region, find_regions, region_of_mask, run_lengths


def placed(region: Region, shape: tuple[int, int]) -> np.ndarray:
    """The region in its picture, (H, W) bool."""
    mask = np.zeros(shape, bool)
    left, top, width, height = region.box
    mask[top : top + height, left : left + width] = region.mask()
    return mask


def random_map(seed: int) -> tuple[np.ndarray, int]:
    """A small label map, and its number of segments; one value more has none."""
    rng = np.random.default_rng(seed)
    height, width, n = (int(number) for number in rng.integers(1, (12, 12, 5)))
    return rng.integers(0, n + 1, (height, width)).astype(np.uint8), n


@pytest.mark.parametrize("seed", range(40))
def test_components_are_those_of_scipy(seed: int) -> None:
    labels, n = random_map(seed)
    expected = set()
    for value in range(n):
        numbered, count = ndimage.label(labels == value)
        expected |= {(value, (numbered == i + 1).tobytes()) for i in range(count)}
    regions = find_regions(labels, n, per_component=True)
    assert {(region.value, placed(region, labels.shape).tobytes()) for region in regions} == expected
    assert len(regions) == len(expected)
    assert [(r.value, -r.area) for r in regions] == sorted((r.value, -r.area) for r in regions)
    for region in regions:
        mask = placed(region, labels.shape)
        assert region.area == mask.sum()
        y, x = ndimage.center_of_mass(mask)
        assert region.centroid == pytest.approx((x + 0.5, y + 0.5))
        assert np.array_equal(placed(region.filled(), labels.shape), ndimage.binary_fill_holes(mask))
        left, top, _, _ = region.box
        lengths = run_lengths(region.mask(), left, top, labels.shape)
        assert all(length > 0 for length in lengths[1:])
        assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2 > 0, lengths), mask.ravel())


@pytest.mark.parametrize("seed", range(10))
def test_segments_join_the_components_that_are_large_enough(seed: int) -> None:
    labels, n = random_map(seed)
    for fill in (False, True):
        parts = find_regions(labels, n, per_component=True, min_area=3, fill_holes=fill)
        segments = find_regions(labels, n, min_area=3, fill_holes=fill)
        assert [s.value for s in segments] == sorted({part.value for part in parts})
        for segment in segments:
            own = [placed(part, labels.shape) for part in parts if part.value == segment.value]
            assert np.array_equal(placed(segment, labels.shape), np.any(own, axis=0))
    assert all(part.area >= 3 for part in find_regions(labels, n, per_component=True, min_area=3))


def test_a_region_of_a_mask_has_its_place() -> None:
    region = region_of_mask(4, np.array([[False, True], [True, True]]), left=10, top=20)
    assert (region.value, region.box, region.area) == (4, (10, 20, 2, 2), 3)
