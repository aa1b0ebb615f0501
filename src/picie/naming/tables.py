"""Tables for the terminal: the segments of a run, and the quality of numbers of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from picie.naming.overview import Row
from picie.naming.suggestion import Suggestion
from picie.scoring.by_name import taught_by


def show_segments(rows: Sequence[Row], taught: Mapping[str, int] | None = None) -> None:
    """Print the segments: value, name, colour, share of the pixels, clusters and the most similar
    other segment; and the clicks if the run was `taught` classes.
    """
    table = Table(
        "clusters",
        "name",
        "colour",
        Column("pixels %", justify="right"),
        Column("label value", justify="right"),
        "nearest other (similarity)",
    )
    for value, row in enumerate(rows):
        nearest = "-" if row.nearest is None else f"{rows[row.nearest].name} ({row.similarity:.2f})"
        share = "-" if row.share is None else f"{100 * row.share:.1f}"
        color = Text.assemble(("  ", f"on {row.color}"), f" {row.color}")
        clusters = ", ".join(map(str, row.clusters)) or "-"
        table.add_row(clusters, Text(row.name), color, share, str(value), Text(nearest))
    Console().print(table)
    if taught is not None:
        Console().print(f"{taught_by(taught.values())}; picie teach RUN --undo returns to the clusters", highlight=False)


def show_suggestion(result: Suggestion, run: Path) -> None:
    """Print the quality of each K, then the recommendation and its limitations."""
    titles = ("K", "inertia", "silhouette", "Calinski-Harabasz", "stability (ARI)")
    table = Table(*(Column(title, justify="right") for title in titles))
    for k, figures in zip(result.ks, result.figures, strict=True):
        style = "bold" if k == result.k else None
        stability = f"{figures.stability:.3f} ± {figures.spread:.3f}"
        table.add_row(
            str(k), f"{figures.inertia:.4f}", f"{figures.silhouette:.3f}", f"{figures.calinski:.0f}", stability, style=style
        )
    console = Console()
    console.print(table)
    for line in (result.reason, *result.limits):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"to use it without training again: picie name {run} --k {result.k}", highlight=False, markup=False, soft_wrap=True
    )
