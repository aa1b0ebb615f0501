"""Line charts over epochs, drawn by matplotlib as SVG that an HTML page can contain."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

SERIES_COLORS = ("#1f5fbf", "#c4572b", "#2c8a57", "#8a4fb0", "#a07d10", "#4b5a68")
"""Line colours. A page may replace the i-th, counted from 1, by its CSS variable `--series-i`."""

_TEXT = "#1c2024"  # replaced by the page's own text colour
# the page scales the chart; this fixes its proportions and the relative size of the text
_INCHES = (5.2, 2.9)
_FONT_SIZE = 11
_MAX_TICKS = 8


def line_chart(series: Mapping[str, Sequence[tuple[int, float | None]]]) -> str | None:
    """Draw up to six series over the epochs.

    The result is a function of `series` alone: it holds neither a date nor a random identifier.
    Text stays text, and the colours are CSS variables, so that the chart follows the page's light
    or dark theme.

    Args:
        series: for each name, (epoch, value) pairs. Values that are None or not finite are left
            out.

    Returns:
        An `<svg>` element, or None if fewer than two epochs have a value.

    Raises:
        ValueError: there are more series than colours.
    """
    finite = {
        name: [(epoch, float(value)) for epoch, value in points if value is not None and math.isfinite(value)]
        for name, points in series.items()
    }
    finite = {name: points for name, points in finite.items() if points}
    if len(finite) > len(SERIES_COLORS):
        raise ValueError(f"a chart has at most {len(SERIES_COLORS)} series, not {len(finite)}")
    if len({epoch for points in finite.values() for epoch, _ in points}) < 2:
        return None
    return _for_page(_draw(finite))


def _draw(series: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """An SVG file with one line for each series and a legend above the axes."""
    import matplotlib as mpl  # imported here because it takes 0.3 s, and most commands draw nothing
    from matplotlib.figure import Figure  # not pyplot, which keeps global state
    from matplotlib.ticker import MaxNLocator

    style: dict[Any, Any] = {
        "font.size": _FONT_SIZE,
        "text.color": _TEXT,
        "axes.edgecolor": _TEXT,
        "axes.labelcolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        "grid.color": _TEXT,
        "svg.fonttype": "none",
        # seeds the identifiers; charts on the same page must not share any
        "svg.hashsalt": f"picie {dict(series)}",
    }
    file = io.StringIO()
    with mpl.rc_context(style):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        for (name, points), color in zip(series.items(), SERIES_COLORS, strict=False):
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, color=color, marker="o", markersize=4, linewidth=1.8, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(_MAX_TICKS, integer=True))
        axes.set_xlabel("epoch")
        axes.grid(axis="y", alpha=0.2)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for artist in axes.findobj():
            # all points lie within the axes; clip paths would only need identifiers
            artist.set_clip_on(False)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _for_page(svg: str) -> str:
    """Extract the `<svg>` element of a file; the page determines its size and colours."""
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head, end, body = svg.partition(">")
    head = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # names such as "axes_1", which nothing refers to
    body = re.sub(r" font-family: [^;]*;", "", body)
    svg = head + end + body.replace(_TEXT, "currentColor")
    for i, color in enumerate(SERIES_COLORS, start=1):
        svg = svg.replace(color, f"var(--series-{i}, {color})")
    return svg.strip()
