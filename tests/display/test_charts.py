"""Line charts as SVG."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from picie.display.charts import SERIES_COLORS, line_chart


def parse(svg: str | None) -> ET.Element:
    assert svg is not None
    return ET.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))


def curves(svg: str | None) -> list[list[tuple[float, float]]]:
    """The points (x, y) of each curve, in the order of the series.

    The curves are the coloured paths 1.8 wide.
    """
    found = {}
    for path in parse(svg).iter("path"):
        style = path.get("style", "")
        if "stroke: var(--series-" in style and "stroke-width: 1.8" in style:
            numbers = path.get("d", "").replace("M", "").replace("L", "").split()
            points = list(zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True))
            found.setdefault(style, points)  # the second path of a colour is in the legend
    return list(found.values())


def texts(svg: str | None) -> list[str]:
    return [element.text or "" for element in parse(svg).iter("text")]


def test_points_lie_where_their_values_are() -> None:
    svg = line_chart({"a": [(1, 0.0), (2, 5.0), (3, 10.0)], "b": [(1, 2.5), (3, None), (4, 2.5)], "c": [(2, math.nan)]})
    (first, second) = curves(svg)
    (x1, y1), (x2, y2), (x3, y3) = first
    assert x2 == pytest.approx((x1 + x3) / 2)
    assert y2 == pytest.approx((y1 + y3) / 2)
    assert y1 > y3  # SVG's y grows downwards
    assert second == [(pytest.approx(x1), pytest.approx(y1 + (y3 - y1) / 4)), (pytest.approx(2 * x3 - x2), second[0][1])]
    _, _, width, height = map(float, parse(svg).get("viewBox", "").split())
    assert all(0 <= x <= width and 0 <= y <= height for curve in curves(svg) for x, y in curve)


def test_the_legend_names_the_series_that_have_values() -> None:
    shown = texts(line_chart({"a < b": [(1, 0.0), (2, 5.0)], "nothing": [(1, None)], "c & d": [(1, 2.0)]}))
    assert "a < b" in shown
    assert "c & d" in shown
    assert "nothing" not in shown


@pytest.mark.parametrize("epochs", [2, 9, 100])
def test_epochs_are_whole_numbers_that_do_not_crowd(epochs: int) -> None:
    shown = texts(line_chart({"a": [(epoch, epoch / 200) for epoch in range(1, epochs + 1)]}))
    ticks = [int(text) for text in shown[: shown.index("epoch")]]
    assert 2 <= len(ticks) <= 10
    assert all(b > a for a, b in pairwise(ticks))


@pytest.mark.parametrize("values", [(3.0, 3.0), (0.0, 0.0), (1e-6, 3e-6), (0, 1e9), (1e16, 1e16), (-1e16, -1e16)])
def test_extreme_values_are_drawn(values: tuple[float, float]) -> None:
    (curve,) = curves(line_chart({"a": [(1, values[0]), (2, values[1])]}))
    assert all(math.isfinite(number) for point in curve for number in point)


def test_a_chart_depends_on_its_numbers_alone_and_needs_nothing_else() -> None:
    series = {"a": [(1, 0.5), (2, 1.5)]}
    svg = line_chart(series)
    assert svg is not None
    assert svg == line_chart(series)
    assert not any(part in svg for part in ("http", "url(", "<style", "<metadata", "width=", "font-family"))
    others = line_chart({"a": [(1, 0.5), (2, 1.75)]})
    identifiers, other = ({element.get("id") for element in parse(one).iter() if element.get("id")} for one in (svg, others))
    assert identifiers
    assert not identifiers & other  # one page may hold both


def test_all_colours_follow_the_page() -> None:
    svg = line_chart({str(i): [(1, i), (2, i + 1)] for i in range(len(SERIES_COLORS))})
    assert svg is not None
    assert len(curves(svg)) == len(SERIES_COLORS)
    without_fallbacks = svg
    for i, color in enumerate(SERIES_COLORS, start=1):
        assert f"var(--series-{i}, {color})" in svg
        without_fallbacks = without_fallbacks.replace(f", {color})", ")")
    assert all(element.get("style", "").find("fill: #") == -1 for element in parse(without_fallbacks).iter("text"))
    assert not any(color in without_fallbacks for color in SERIES_COLORS)
    assert "currentColor" in svg


def test_one_epoch_is_no_chart() -> None:
    assert line_chart({"a": [(1, 0.5)], "b": [(2, None)]}) is None
    assert line_chart({}) is None


def test_too_many_series_are_an_error() -> None:
    with pytest.raises(ValueError, match="at most 6 series, not 7"):
        line_chart({str(i): [(1, 0.0), (2, 1.0)] for i in range(7)})
