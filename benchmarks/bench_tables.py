"""A benchmark's records for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from benchmarks.bench import side_by_side

_CONTESTANTS = {"picie": "picie", "floor": "the floor", "naive": "the naive recipe"}
_SHOWN = 5e-4  # share of the epoch that a stage must have for a row
_WIDTH = 120  # of a file or a pipe


def show_record(found: Mapping[str, Any]) -> None:
    """Print one setting's record: what was measured, the contestants, their ratios, and picie's stages."""
    console = _console()
    console.print(f"\n{title(found)}", markup=False, highlight=False, soft_wrap=True)
    console.print(_contestants(found))
    for ratio, value in found["ratios"].items():
        rounds = side_by_side(found["seconds"]) if ratio == "picie/floor" else []
        spread = f" ({min(rounds):.2f} to {max(rounds):.2f})" if len(rounds) > 1 else ""
        console.print(f"{ratio.replace('/', ' / ')}  {value:.2f}{spread}", highlight=False)
    if "picie/floor" in found["ratios"]:
        console.print(
            "picie / floor is of epochs side by side, the median (the least to the greatest); all else of the quickest.",
            highlight=False,
        )
    console.print("picie's stages, of an epoch not counted:", highlight=False)
    console.print(_stages(found))
    rates = {"decode": f" ({found['images'] / found['once'].get('decode', 1):.0f} images/s)"}
    once = ", ".join(f"{name} {seconds:.1f}{rates.get(name, '')}" for name, seconds in found["once"].items())
    console.print(f"once, before the first epoch, in seconds: {once}", markup=False, highlight=False, soft_wrap=True)


def title(found: Mapping[str, Any]) -> str:
    """A record's setting and machine in a line."""
    engine, (height, width), frame = found["engine"], found["view"], found["frame"]
    return (
        f"{found['backbone']}{', frozen' if found['freeze'] else ''}: {found['images']} images, views {height}x{width} "
        f"of {frame[0]}x{frame[1]}, batch {found['batch_size']}, K = {found['k']}; {engine['device']}, {engine['precision']}, "
        f"{engine['threads']} of {found['cores']} cores"
    )


def _contestants(found: Mapping[str, Any]) -> Table:
    names = ("s an epoch", "up to", "images/s", "forwards", "backwards", "peak MB", "GPU MB")
    table = _table("", *map(_right, names))
    for name, seconds in found["seconds"].items():
        calls = found["calls"]["picie" if name == "floor" else name]
        memory = found["memory"].get(name, {})
        table.add_row(
            _CONTESTANTS[name],
            f"{found['least'][name]:.2f}",
            f"{max(seconds):.2f}",
            f"{found['images'] / found['least'][name]:.1f}",
            *(f"{calls[key]:,}" for key in ("forwards", "backwards")),
            *(_number(memory.get(key)) for key in ("peak_memory_mb", "peak_vram_mb")),
        )
    return table


def _stages(found: Mapping[str, Any]) -> Table:
    """A row a stage, those of a pass together."""
    table = _table("", *map(_right, ("s", "% of the epoch", "images/s")))
    stages = {name: stage for name, stage in found["stages"].items() if stage["share"] >= _SHOWN}
    for name, stage in sorted(stages.items(), key=lambda item: _order(item[0], list(stages))):
        outer, _, inner = name.rpartition("/")
        shown = f"{outer.replace('/', ', ')}: {inner}" if outer else f"{inner}: else" if _is_pass(inner, found) else inner
        table.add_row(shown, f"{stage['seconds']:.2f}", f"{100 * stage['share']:.1f}", f"{stage['images_per_second']:.0f}")
    return table


def _order(name: str, names: Sequence[str]) -> tuple[int, int, int]:
    """Stages of a pass together, passes and their stages as they first come, what is left of a pass last."""
    outer = name.split("/")[0]
    first = next(i for i, other in enumerate(names) if other.split("/")[0] == outer)
    return first, "/" not in name, names.index(name)


def _is_pass(name: str, found: Mapping[str, Any]) -> bool:
    return any(other.startswith(f"{name}/") for other in found["stages"])


def show_growth(records: Sequence[Mapping[str, Any]]) -> None:
    """Print how time and memory grew: a row a record of `growth`."""
    console = _console()
    console.print(f"\n{records[0]['grow']} grow; {title(records[0])}", markup=False, highlight=False, soft_wrap=True)
    names = ("images", "views", "K", "s an epoch", "ms an image", "peak MB", "GPU MB")
    table = _table(*map(_right, names))
    for found in records:
        memory, least = found["memory"]["picie"], found["least"]["picie"]
        table.add_row(
            f"{found['images']:,}",
            "x".join(map(str, found["view"])),
            str(found["k"]),
            f"{least:.2f}",
            f"{1000 * least / found['images']:.1f}",
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
