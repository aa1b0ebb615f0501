"""Display of a comparison: tables on the terminal, and a plot of the scores over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from picie.comparing.comparison import LABEL_FREE, SCORES, Comparison, Group, Verdict
from picie.comparing.probe_scores import PROBES
from picie.comparing.significance import Spread
from picie.comparing.task_means import TaskMeans
from picie.display.colors import palette, rgb_to_hex, srgb_to_lab
from picie.errors import InputError
from picie.runtime.atomic_write import write_atomically
from picie.runtime.output_paths import check_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTS = (".png", ".svg", ".pdf")
_NAMES = {
    "accuracy": "pixel accuracy %",
    "miou": "mIoU %",
    "loss": "loss",
    "inertia": "inertia",
    "imbalance": "imbalance",
} | PROBES
_MARKERS = "os^DvPX"  # markers distinguish lines of similar colours
_MAX_LIGHTNESS, _MAX_CHROMA = 62, 90  # maximum CIELAB lightness and chroma of lines
_WIDTH = 160  # characters, if the output is not a terminal


def show_comparison(comparison: Comparison) -> None:
    """Print the options that differ, the scores of each group, the verdicts and the notes."""
    console = _console()
    if comparison.differs:
        console.print(_differing(comparison))
    console.print(_scores(comparison))
    if comparison.verdicts:
        console.print(_verdicts(comparison.verdicts))
    for group in comparison.groups:
        for protocol in sorted(group.protocols - set().union(*(g.protocols for g in _before(comparison, group)))):
            console.print(f"protocol: {protocol}", highlight=False, soft_wrap=True)
    for note in comparison.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def show_task_means(means: TaskMeans) -> None:
    """Print the comparison on each task, then the means over the tasks and their tests."""
    for name, comparison in means.tasks.items():
        _console().print(f"\n[bold]task {escape(name)}[/bold]")
        show_comparison(comparison)
    keys = [key for key in (*SCORES, *PROBES) if any(spreads[key].values for spreads in means.spreads.values())]
    table = _table(f"mean of {len(means.tasks)} tasks", _right("seeds"), *(_NAMES[key] for key in keys))
    for setting, spreads in means.spreads.items():
        table.add_row(setting, str(len(spreads[SCORES[0]].values)), *(_spread(spreads[key], 1) for key in keys))
    console = _console()
    console.print(table)
    if means.verdicts:
        console.print(_verdicts(means.verdicts))


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _before(comparison: Comparison, group: Group) -> Sequence[Group]:
    return comparison.groups[: comparison.groups.index(group)]


def _table(*columns: str | Column) -> Table:
    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False)


def _right(name: str) -> Column:
    return Column(name, justify="right")


def _differing(comparison: Comparison) -> Table:
    """Table of the options that differ: a row for each option, or for each group if there are
    fewer options than groups.
    """
    names = [group.name for group in comparison.groups]
    cells = {key: [_setting(value) for value in values] for key, values in comparison.differs.items()}
    if len(cells) >= len(names):
        table = _table("differing options", *names)
        for key, values in cells.items():
            table.add_row(key, *values)
    else:
        table = _table("differing options", *cells)
        for name, *values in zip(names, *cells.values(), strict=True):
            table.add_row(name, *values)
    return table


def _setting(value: Any) -> str:
    """Format the value of an option briefly; lists of transforms as on the command line."""
    if isinstance(value, list):
        return ", ".join(_setting(item) for item in value) or "none"
    if isinstance(value, dict):
        rest = " ".join(f"{k}={v}" for k, v in value.items() if k != "name")
        return f"{value['name']}({rest})" if rest else str(value.get("name"))
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _scores(comparison: Comparison) -> Table:
    """Table with a row for each group: mean, standard deviation and values of each metric."""
    groups = comparison.groups
    shown = (*SCORES, *PROBES) if comparison.scored else LABEL_FREE
    keys = [key for key in shown if any(group.spread(key).values for group in groups)]
    table = _table("last epoch", _right("seeds"), *(_NAMES[key] for key in keys), _right("s / epoch"))
    for group in groups:
        digits = [(4 if key in LABEL_FREE else 1) for key in keys]
        spreads = [_spread(group.spread(key), places) for key, places in zip(keys, digits, strict=True)]
        seconds = "-" if group.seconds is None else f"{group.seconds:.1f}"
        table.add_row(group.name, str(len(group.counted)), *spreads, seconds)
    return table


def _spread(spread: Spread, digits: int) -> str:
    """Format as 'mean ± deviation (values)'."""
    if spread.mean is None:
        return "-"
    if spread.deviation is None:
        return f"{spread.mean:.{digits}f}"
    values = ", ".join(f"{value:.{digits}f}" for value in spread.values)
    return f"{spread.mean:.{digits}f} ± {spread.deviation:.{digits}f} ({values})"


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    corrected = len(verdicts) > len(SCORES)
    table = _table("difference", "score", _right("mean"), _right("95 % interval"), _right("p"), "verdict")
    for verdict in verdicts:
        pair, d = f"{verdict.second} minus {verdict.first}", verdict.difference
        if d is None:
            table.add_row(pair, _NAMES[verdict.score], "-", "-", "-", verdict.words)
        else:
            p = f"{_p(d.p)} (Holm {_p(d.corrected)})" if corrected else _p(d.p)
            interval = f"{d.interval[0]:+.1f} to {d.interval[1]:+.1f}"
            table.add_row(pair, _NAMES[verdict.score], f"{d.mean:+.1f}", interval, p, verdict.words)
    return table


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def check_plot(path: Path) -> None:
    """Raise `InputError` if a plot cannot be written to `path`."""
    if path.suffix.lower() not in PLOTS:
        raise InputError(f"--out {path}: is not a plot file; use a name ending in {', '.join(PLOTS)}")
    check_file("--out", path)


def save_plot(comparison: Comparison, path: Path) -> None:
    """Plot the scores over the epochs, or the losses if there are no scores.

    Each group has a line for its mean over the seeds, a band of one standard deviation on both
    sides, and a thin line for each run.

    Args:
        comparison: the compared runs.
        path: file to write, ending in one of `PLOTS`.
    """
    # pyplot is not used, because it keeps global state and may open a window
    from matplotlib.figure import Figure

    keys = SCORES if comparison.scored else ("loss", "inertia")
    colors = _line_colors(len(comparison.groups))
    columns = max(1, min(4, 90 // (8 + max(len(group.name) for group in comparison.groups))))
    rows = -(-len(comparison.groups) // columns)
    figure = Figure(figsize=(10, 4.2 + 0.25 * rows), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys)), keys, strict=True):
        for index, (group, color) in enumerate(zip(comparison.groups, colors, strict=True)):
            _draw(axes, group, key, color, _MARKERS[index % len(_MARKERS)])
        axes.set(xlabel="epoch", ylabel=_NAMES[key])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    write_atomically(path, lambda file: figure.savefig(file, dpi=150, format=path.suffix[1:]))


def _line_colors(n: int) -> list[str]:
    """The first `n` colours of the palette that are dark and muted enough for lines on white."""
    candidates = palette(5 * n + 16)
    lab = srgb_to_lab(np.array(candidates) / 255)
    suitable = (lab[:, 0] < _MAX_LIGHTNESS) & (np.hypot(lab[:, 1], lab[:, 2]) < _MAX_CHROMA)
    return [rgb_to_hex(color) for color, ok in zip(candidates, suitable, strict=True) if ok][:n]


def _draw(axes: Axes, group: Group, key: str, color: str, marker: str) -> None:
    """Draw the lines of a group; a setting with 0 epochs is a dashed horizontal line."""
    curves = [run.curve(key) for run in group.counted or group.runs]
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    spreads = [Spread(tuple(curve[epoch] for curve in curves)) for epoch in shared]
    means = [spread.mean or 0.0 for spread in spreads]
    label = f"{group.name} (n = {len(group.counted)})"
    low, high = ([m + sign * (s.deviation or 0.0) for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    if shared == [0]:
        axes.axhspan(low[0], high[0], color=color, alpha=0.15, linewidth=0)
        axes.axhline(means[0], color=color, linestyle="--", linewidth=1.8, label=f"{label}, 0 epochs")
        return
    for curve in curves if len(curves) > 1 else ():
        axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.7, alpha=0.5)
    axes.fill_between(shared, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(shared, means, color=color, linewidth=2.2, marker=marker, markersize=5, label=label)
