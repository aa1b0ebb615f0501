"""Plot time and memory of an epoch against images, size and K, from records of `--grow`.

python -m benchmarks.growth docs/images/growth.svg benchmarks/results/*.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from benchmarks.bench import machine_of

GROWING = {"images": "images", "size": "views' short side in pixels", "k": "K"}
TIME, MEMORY = "seconds per epoch", "peak memory in MB"
ROWS = {TIME: lambda r: r["least"]["picie"], MEMORY: lambda r: r["memory"]["picie"]["peak_memory_mb"]}


def main() -> None:
    """Read the records and save the plot."""
    out, *files = map(Path, sys.argv[1:])
    records = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    draw(records).savefig(out)
    print(out)


def draw(records: Iterable[dict[str, Any]]) -> Figure:
    """One column of two plots per quantity, one line per backbone and machine."""
    found: defaultdict[str, defaultdict[str, dict[float, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if "grow" in record:
            name = f"{record['backbone']}{', frozen' * record['freeze']}; {machine_of(record)}"
            # of several records of one setting, the last is used
            found[record["grow"]][name][_value(record)] = record
    kinds = [kind for kind in GROWING if kind in found]
    if not kinds:
        sys.exit("these files hold no record of `python -m benchmarks --grow ...`")
    figure = Figure(figsize=(3.6 * len(kinds), 5.4), layout="constrained")
    grid = figure.subplots(2, len(kinds), squeeze=False, sharex="col")
    for column, kind in enumerate(kinds):
        for axes, (label, height) in zip(grid[:, column], ROWS.items(), strict=True):
            for name, steps in found[kind].items():
                values = sorted(steps)
                axes.plot(values, [height(steps[value]) for value in values], marker="o", label=name)
            axes.set(xscale="log", ylabel=label if column == 0 else None)
            if label == TIME:  # log-log: slope 1 means proportional growth
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(ScalarFormatter())
                axes.yaxis.set_minor_formatter(ScalarFormatter())
                axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))  # more labels would overlap
            else:
                axes.set_ylim(0, 1.1 * max(height(record) for steps in found[kind].values() for record in steps.values()))
            axes.set_xticks(sorted({value for steps in found[kind].values() for value in steps}))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(alpha=0.25)
        grid[1, column].set_xlabel(GROWING[kind])
    handles = {label: h for axes in grid[0] for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False)
    return figure


def _value(record: dict[str, Any]) -> float:
    return {"images": record["images"], "size": min(record["view"]), "k": record["k"]}[record["grow"]]


if __name__ == "__main__":
    main()
