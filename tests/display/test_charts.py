"""Curves as numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from picie.display.charts import HEIGHT, WIDTH, line_chart, ticks


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.12, 0.55),
        (3.0, 3.0),
        (0.0, 0.0),
        (-2.0, 7.5),
        (1e-6, 3e-6),
        (61.0, 63.1),
        (0, 1e9),
        (1e16, 1e16),
        (-1e16, -1e16),
        (2e-14, 7e-14),
    ],
)
def test_ticks_are_even_and_hold_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert [b - a for a, b in pairwise(found)] == pytest.approx([found[1] - found[0]] * (len(found) - 1))
    assert 2 <= len(found) <= 9


def test_points_lie_where_their_values_are() -> None:
    chart = line_chart("t", "n", {"a": [(1, 0.0), (2, 5.0), (3, 10.0)], "b": [(1, 2.5), (3, None)], "c": [(2, math.nan)]})
    assert chart is not None
    assert [line.name for line in chart.lines] == ["a", "b"]
    (x1, y1, _), (x2, y2, _), (x3, y3, text) = chart.lines[0].points
    assert (x1, x3) == (chart.left, chart.right)
    assert x2 == pytest.approx((x1 + x3) / 2)
    assert y1 == chart.bottom  # SVG's y grows downwards
    assert y2 == pytest.approx((y1 + y3) / 2)
    assert chart.lines[1].points[0][1] == pytest.approx(y1 + (y3 - y1) / 4)
    assert text == "a, epoch 3: 10"
    assert [label for _, label in chart.x_ticks] == ["1", "2", "3"]
    assert all(0 <= x <= WIDTH for x, _ in chart.x_ticks)
    assert all(0 <= y <= HEIGHT for y, _ in chart.y_ticks)


def test_labels_of_an_axis_have_equal_decimals_and_do_not_crowd() -> None:
    chart = line_chart("t", "n", {"a": [(epoch, 0.8 + epoch / 200) for epoch in range(1, 101)]})
    assert chart is not None
    assert len({len(label.partition(".")[2]) for _, label in chart.y_ticks}) == 1
    assert len(chart.x_ticks) <= 9


@pytest.mark.parametrize(("low", "high"), [(2.5e-05, 1e-4), (1e16, 1e16), (1000.0, 1000.1), (0.5, 1.0)])
def test_labels_are_the_numbers_of_their_ticks(low: float, high: float) -> None:
    chart = line_chart("t", "n", {"a": [(1, low), (2, high)]})
    assert chart is not None
    assert [float(label) for _, label in chart.y_ticks] == ticks(low, high)


def test_one_epoch_is_no_curve() -> None:
    assert line_chart("t", "n", {"a": [(1, 0.5)], "b": [(2, None)]}) is None
    assert line_chart("t", "n", {}) is None
