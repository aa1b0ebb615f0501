"""The metrics of a run's epochs: charts, and a table of the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picie.display.charts import line_chart

_LOSSES = {
    "loss": "loss",
    "within": "within",
    "cross": "cross",
    "over_within": "within, K2",
    "over_cross": "cross, K2",
    "mse": "MSE",
}


@dataclass(frozen=True)
class Chart:
    """A chart of the page: its title, a line that explains it, and its `<svg>` element."""

    title: str
    note: str
    svg: str


def epoch_charts(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Draw the charts of a run's `metrics`, one dict per epoch.

    Charts with fewer than two epochs are left out.
    """

    def series(keys: Mapping[str, str]) -> dict[str, list[tuple[int, float | None]]]:
        return {name: [(line["epoch"], line.get(key)) for line in metrics] for key, name in keys.items()}

    def by_view(key: str) -> dict[str, list[tuple[int, float | None]]]:
        views = max((len(line.get(key, ())) for line in metrics), default=0)
        return {
            f"view {v + 1}": [(line["epoch"], line[key][v]) for line in metrics if v < len(line.get(key, ()))]
            for v in range(views)
        }

    charts = [
        ("Loss", "the loss and its terms, averaged over the images of each epoch", series(_LOSSES)),
        ("K-means inertia", "mean squared distance between a feature cell and its centroid", by_view("inertia")),
        ("Imbalance", "K × Σ share²: 1 if all clusters have the same size, K if one holds every cell", by_view("imbalance")),
        (
            "Scores in %",
            "measured with labels, which training never uses",
            series({"accuracy": "pixel accuracy", "miou": "mIoU"}),
        ),
    ]
    return [Chart(title, note, svg) for title, note, lines in charts if (svg := line_chart(lines)) is not None]


def epoch_table(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The column heads and rows of a table of `metrics`.

    A cell with one value per view shows them all.
    """
    keys = [*_LOSSES, "inertia", "imbalance", "empty", "accuracy", "miou"]
    keys = ["epoch", *(key for key in keys if any(line.get(key) is not None for line in metrics))]
    return keys, [[_text(line.get(key)) for key in keys] for line in metrics]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(_text(item) for item in value)
    return "–" if value is None else f"{value:.4g}"
