"""Line charts as plain numbers, which the page draws as SVG: text stays text, and colours follow the page's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 26
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Line:
    """One series: its name, and its points as (x, y, text to hover)."""

    name: str
    points: list[tuple[float, float, str]]

    @property
    def path(self) -> str:
        """The points as SVG's `points`."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in self.points)


@dataclass(frozen=True)
class Chart:
    """What a chart shows: title, lines, and the places of its ticks in pixels of WIDTH x HEIGHT."""

    title: str
    note: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def line_chart(title: str, note: str, series: Mapping[str, Sequence[tuple[int, float | None]]]) -> Chart | None:
    """A chart of `series`, each (epoch, value) pairs; values that are None or not finite are left out.

    Returns:
        The chart; None where fewer than two epochs have a value.
    """
    kept = {
        name: [(epoch, float(value)) for epoch, value in points if value is not None and math.isfinite(value)]
        for name, points in series.items()
    }
    epochs = sorted({epoch for points in kept.values() for epoch, _ in points})
    if len(epochs) < 2:
        return None
    values = [value for points in kept.values() for _, value in points]
    y_ticks = ticks(min(values), max(values))
    low, high = y_ticks[0], y_ticks[-1]
    decimals = next(digits for digits in itertools.count() if all(round(tick, digits) == tick for tick in y_ticks))

    def x(epoch: float) -> float:
        return _LEFT + (epoch - epochs[0]) / (epochs[-1] - epochs[0]) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _BOTTOM - _TOP)

    lines = [
        Line(name, [(x(epoch), y(value), f"{name}, epoch {epoch}: {value:.4g}") for epoch, value in points])
        for name, points in kept.items()
        if points
    ]
    every = max(1, math.ceil((epochs[-1] - epochs[0]) / 8))
    x_ticks = [(x(epoch), str(epoch)) for epoch in range(epochs[0], epochs[-1] + 1, every)]
    return Chart(title, note, lines, x_ticks, [(y(tick), f"{tick:.{decimals}f}") for tick in y_ticks])


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, some `about` steps of one size.

    >>> ticks(0.12, 0.55)
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    >>> ticks(3.0, 3.0)
    [2.0, 2.5, 3.0, 3.5, 4.0]
    """
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size:  # of numbers nearer to each other, the steps between would be lost in rounding
        margin = size / 3 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / about
    exponent = math.floor(math.log10(rough))
    power = 10.0**exponent
    step = power * min(_STEPS, key=lambda s: abs(math.log(s * power / rough)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 1 - exponent) for i in range(first, last + 1)]
