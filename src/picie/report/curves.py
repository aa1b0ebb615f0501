"""What the epochs' lines of metrics come to: curves, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from picie.display.charts import Chart, line_chart

_LOSSES = {
    "loss": "loss",
    "within": "within",
    "cross": "cross",
    "over_within": "within, K2",
    "over_cross": "cross, K2",
    "mse": "MSE",
}


def epoch_curves(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts of a run's lines of metrics, of those with two epochs or more."""

    def series(keys: Mapping[str, str]) -> dict[str, list[tuple[int, float | None]]]:
        return {name: [(line["epoch"], line.get(key)) for line in metrics] for key, name in keys.items()}

    def by_view(key: str) -> dict[str, list[tuple[int, float | None]]]:
        views = max((len(line.get(key, ())) for line in metrics), default=0)
        return {f"view {v + 1}": [(line["epoch"], line[key][v]) for line in metrics if key in line] for v in range(views)}

    charts = [
        line_chart("Loss", "its parts, mean over the epoch's images", series(_LOSSES)),
        line_chart("K-means inertia", "mean squared distance of a cell to its centroid", by_view("inertia")),
        line_chart("Imbalance", "K × Σ share²: 1 if all clusters are of one size, K if one holds all", by_view("imbalance")),
        line_chart(
            "Scores in %", "by labels, which training never sees", series({"accuracy": "pixel accuracy", "miou": "mIoU"})
        ),
    ]
    return [chart for chart in charts if chart is not None]


def epoch_table(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the numbers behind the curves; of what has one value a view, both."""
    keys = [*_LOSSES, "inertia", "imbalance", "empty", "accuracy", "miou"]
    keys = ["epoch", *(key for key in keys if any(line.get(key) is not None for line in metrics))]
    return keys, [[_shown(line.get(key)) for key in keys] for line in metrics]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(_shown(item) for item in value)
    return "–" if value is None else f"{value:.4g}"
