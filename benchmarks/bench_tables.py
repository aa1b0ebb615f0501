"""Print benchmark records as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from benchmarks.bench import side_by_side

_CONTESTANTS = {"picie": "picie", "floor": "the floor", "naive": "the naive recipe"}
_SHOWN = 5e-4  # minimum share of the epoch for a stage to be shown
_WIDTH = 120  # columns, when stdout is not a terminal


def show_record(record: Mapping[str, Any]) -> None:
    """Print the record of one setting: sizes, contestants, ratios, and the stages of picie."""
    console = _console()
    console.print(f"\n{title(record)}", markup=False, highlight=False, soft_wrap=True)
    console.print(_contestants(record))
    for ratio, value in record["ratios"].items():
        rounds = side_by_side(record["seconds"]) if ratio == "picie/floor" else []
        spread = f" ({min(rounds):.2f} to {max(rounds):.2f})" if len(rounds) > 1 else ""
        console.print(f"{ratio.replace('/', ' / ')}  {value:.2f}{spread}", highlight=False)
    if "picie/floor" in record["ratios"]:
        console.print(
            "picie / floor: median over neighbouring epochs (minimum to maximum); other figures: the fastest epoch.",
            highlight=False,
        )
    console.print("stages of picie, from an epoch that is not timed above:", highlight=False)
    console.print(_stages(record))
    rates = {"decode": f" ({record['images'] / record['once'].get('decode', 1):.0f} images/s)"}
    once = ", ".join(f"{name} {seconds:.1f}{rates.get(name, '')}" for name, seconds in record["once"].items())
    console.print(f"once before the first epoch, in seconds: {once}", markup=False, highlight=False, soft_wrap=True)


def title(record: Mapping[str, Any]) -> str:
    """Setting and machine of a record in one line."""
    engine, (height, width), frame = record["engine"], record["view"], record["frame"]
    return (
        f"{record['backbone']}{', frozen' if record['freeze'] else ''}: {record['images']} images, views {height}x{width} "
        f"of {frame[0]}x{frame[1]}, batch {record['batch_size']}, K = {record['k']}; {engine['device']}, "
        f"{engine['precision']}, {engine['threads']} of {record['cores']} cores"
    )


def _contestants(record: Mapping[str, Any]) -> Table:
    names = ("s/epoch", "max", "images/s", "forwards", "backwards", "peak MB", "GPU MB")
    table = _table("", *map(_right, names))
    for name, seconds in record["seconds"].items():
        calls = record["calls"]["picie" if name == "floor" else name]
        memory = record["memory"].get(name, {})
        table.add_row(
            _CONTESTANTS[name],
            f"{record['least'][name]:.2f}",
            f"{max(seconds):.2f}",
            f"{record['images'] / record['least'][name]:.1f}",
            *(f"{calls[key]:,}" for key in ("forwards", "backwards")),
            *(_number(memory.get(key)) for key in ("peak_memory_mb", "peak_vram_mb")),
        )
    return table


def _stages(record: Mapping[str, Any]) -> Table:
    """One row per stage, grouped by pass."""
    table = _table("", *map(_right, ("s", "% of the epoch", "images/s")))
    stages = {name: stage for name, stage in record["stages"].items() if stage["share"] >= _SHOWN}
    for name, stage in sorted(stages.items(), key=lambda item: _order(item[0], list(stages))):
        outer, _, inner = name.rpartition("/")
        shown = f"{outer.replace('/', ', ')}: {inner}" if outer else f"{inner}: other" if _is_pass(inner, record) else inner
        table.add_row(shown, f"{stage['seconds']:.2f}", f"{100 * stage['share']:.1f}", f"{stage['images_per_second']:.0f}")
    return table


def _order(name: str, names: Sequence[str]) -> tuple[int, int, int]:
    """Sort key: passes in order of appearance, and within a pass its stages, then its remaining
    time.
    """
    outer = name.split("/")[0]
    first = next(i for i, other in enumerate(names) if other.split("/")[0] == outer)
    return first, "/" not in name, names.index(name)


def _is_pass(name: str, record: Mapping[str, Any]) -> bool:
    return any(other.startswith(f"{name}/") for other in record["stages"])


def show_growth(records: Sequence[Mapping[str, Any]]) -> None:
    """Print time and memory of `growth`, one row per record."""
    console = _console()
    console.print(f"\nincreasing {records[0]['grow']}; {title(records[0])}", markup=False, highlight=False, soft_wrap=True)
    names = ("images", "views", "K", "s/epoch", "ms/image", "peak MB", "GPU MB")
    table = _table(*map(_right, names))
    for record in records:
        memory, least = record["memory"]["picie"], record["least"]["picie"]
        table.add_row(
            f"{record['images']:,}",
            "x".join(map(str, record["view"])),
            str(record["k"]),
            f"{least:.2f}",
            f"{1000 * least / record['images']:.1f}",
            *(_number(memory[key]) for key in ("peak_memory_mb", "peak_vram_mb")),
        )
    console.print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _table(*columns: str | Column) -> Table:
    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False)


def _right(name: str) -> Column:
    return Column(name, justify="right")


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
