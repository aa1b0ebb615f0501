"""Overlays, legends and sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from picie.display import overlays
from picie.display.overlays import colorize, draw_names, index_image, large_regions, legend, overlay, sheet

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
LABELS = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]], dtype=np.uint8)


def test_colorize_gives_each_value_its_color() -> None:
    picture = colorize(LABELS, COLORS)
    assert picture.size == (4, 3)
    assert np.array_equal(np.asarray(picture), np.array(COLORS)[LABELS])
    unknown = np.array([[0, 255, 3]])
    assert np.asarray(colorize(unknown, COLORS, (9, 8, 7))).tolist() == [[[255, 0, 0], [9, 8, 7], [9, 8, 7]]]


def test_overlay_blends_inside_and_darkens_borders() -> None:
    image = Image.new("RGB", (4, 3), (100, 100, 100))
    before = np.asarray(image).copy()
    picture = np.asarray(overlay(image, LABELS, COLORS)).astype(int)
    assert np.array_equal(np.asarray(image), before)
    assert np.abs(picture[0, 0] - [185, 45, 45]).max() <= 1  # 0.45 * 100 + 0.55 * colour
    border = np.array([[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 1]], dtype=bool)
    brightness = picture.sum(2)
    assert (brightness[border] < brightness[~border].min() / 2).all()


def test_an_index_image_holds_values_and_colors() -> None:
    image = index_image(LABELS.astype(np.int64), COLORS)
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), LABELS)
    assert np.array_equal(np.asarray(image.convert("RGB")), np.array(COLORS)[LABELS])
    full = index_image(np.arange(256).reshape(16, 16), [(i, 255 - i, 7) for i in range(256)])
    assert full.mode == "P"
    assert full.convert("RGB").getpixel((15, 15)) == (255, 0, 7)


def test_more_than_256_values_are_stored_in_16_bits() -> None:
    labels = np.array([[0, 299, 256]])
    image = index_image(labels, [(0, 0, 0)] * 300)
    assert image.mode == "I;16"
    assert np.array_equal(np.asarray(image), labels)


def test_a_legend_shows_every_color_and_wraps() -> None:
    wide = legend(["red", "green", "blue"], COLORS, 640)
    narrow = legend(["red", "green", "blue"], COLORS, 80)
    assert wide.width == 640
    assert narrow.height > wide.height
    for strip in (wide, narrow):
        seen = {tuple(int(c) for c in p) for p in np.asarray(strip).reshape(-1, 3)}
        assert set(COLORS) <= seen
        right = np.asarray(strip)[:, -1]
        assert (right == 255).all()  # nothing is cut off
    assert legend(["a name that is far too long for the strip"], COLORS[:1], 20).width > 20


def test_a_sheet_places_pictures_in_rows_with_titles_and_legend() -> None:
    rows = [[Image.new("RGB", (30, 20), color) for color in COLORS] for _ in range(2)]
    key = legend(["red"], COLORS[:1], 50)
    page, bare = sheet(rows, ["a", "b", "c"], key), sheet(rows, ["a", "b", "c"])
    assert page.height == bare.height + key.height
    pixels = np.asarray(bare)
    for color in COLORS:
        assert (pixels == color).all(2).sum() == 2 * 30 * 20
    assert np.array_equal(np.asarray(page)[-key.height :, : key.width], np.asarray(key))
    assert (pixels[:20] < 128).any()  # the titles


def test_an_overlay_drawn_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 30, 3), dtype=np.uint8))
    labels = rng.integers(0, 3, (50, 30)).repeat(2, 0)[:50].astype(np.uint8)
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    whole = np.asarray(overlay(image, labels, colors))
    for pixels in (1, 30, 70, 200):
        monkeypatch.setattr(overlays, "_PIXELS_AT_ONCE", pixels)
        assert np.array_equal(np.asarray(overlay(image, labels, colors)), whole)


def test_large_regions_are_found_at_their_innermost_point() -> None:
    labels = np.zeros((600, 900), dtype=np.uint8)
    labels[100:500, 100:400] = 1  # two regions of one value
    labels[100:300, 600:800] = 1
    labels[590:600, 890:900] = 2  # too small for a name
    outer, left, right = large_regions(labels)
    assert (outer.value, left.value, right.value) == (0, 1, 1)
    assert left.share == pytest.approx(120_000 / 540_000, rel=0.05)
    assert left.x == pytest.approx(250 / 900, abs=0.02)
    assert 200 / 600 < left.y < 400 / 600
    assert (right.x, right.y) == pytest.approx((700 / 900, 200 / 600), abs=0.01)
    assert labels[int(outer.y * 600), int(outer.x * 900)] == 0


def test_names_stand_on_their_regions_and_do_not_overlap() -> None:
    labels = np.zeros((200, 300), dtype=np.uint8)
    labels[:, 150:] = 1
    image = Image.new("RGB", (300, 200), (120, 120, 120))
    draw_names(image, labels, ["road", "sky"])
    written = np.argwhere((np.asarray(image) != 120).any(2))
    left, right = written[written[:, 1] < 150], written[written[:, 1] >= 150]
    assert np.ptp(left[:, 1]) > np.ptp(right[:, 1]) > 10  # "road" is longer than "sky"
    for part, column in ((left, 75), (right, 225)):
        assert abs(part[:, 1].mean() - column) < 5
    stripes = Image.new("RGB", (300, 200), (120, 120, 120))
    draw_names(stripes, (np.arange(200)[:, None] // 5 % 2).repeat(300, 1), ["a", "b"])
    rows = np.flatnonzero((np.asarray(stripes) != 120).any((1, 2)))
    assert (np.diff(rows) > 1).sum() < 19  # there are 40 regions, and names of a third of them fit
    narrow = Image.new("RGB", (30, 200), (120, 120, 120))
    draw_names(narrow, np.zeros((200, 30), dtype=np.uint8), ["a name that does not fit"])
    assert (np.asarray(narrow) == 120).all()
