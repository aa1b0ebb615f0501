"""`picie name` and `picie clusters`: names of a run's clusters, and advice on their number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from picie.cli.options import Trust
from picie.errors import InputError
from picie.runtime.output_paths import check_file, write_json

app = typer.Typer(name="clusters", no_args_is_help=True, rich_markup_mode=None, help="Advice on the clusters of a run.")

_Run = Annotated[Path, typer.Argument(help="A run's folder.")]
_Data = Annotated[Optional[Path], typer.Option(help="Folder of images to use. [default: the training images]")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


@app.callback()
def _group() -> None:
    """Keeps `suggest-k` a subcommand, although it is the only one."""


def name(
    run: _Run,
    names: Annotated[
        Optional[list[str]], typer.Argument(metavar="SEGMENT=NAME[:#rrggbb]", help="Names, colours (7=:#0000ff) or both.")
    ] = None,
    split: Annotated[
        Optional[list[str]],
        typer.Option(metavar="SEGMENT:N", help="Split into N parts, by k-means on the features of its pixels."),
    ] = None,
    merge: Annotated[
        Optional[list[str]], typer.Option(metavar="A,B,...=NAME", help="Merge segments under one name; may be repeated.")
    ] = None,
    merge_to: Annotated[
        Optional[int], typer.Option(metavar="N", help="Merge the most similar segments until N remain.")
    ] = None,
    k: Annotated[Optional[int], typer.Option("--k", metavar="K", help="Make K new clusters, without training.")] = None,
    file: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Read all segments from a TOML file.")] = None,
    write: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Write the resulting segments to a TOML file.")] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="First remove all names and new clusters; return to the trained ones.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the latest change; repeat it to undo earlier ones.")] = False,
    data: _Data = None,
    device: _Device = "auto",
    trust: Trust = False,
) -> None:
    """Name, colour, merge or split the segments of a run, or make new clusters; then show the
    segments.

    SEGMENT is a name, or the number of a cluster, in the table that `picie name RUN` shows. A
    cluster keeps its number when others are merged. All segments refer to the table before the
    command. Changes are applied in this order: --reset, --k, --file, names, --split, --merge,
    --merge-to. Names are stored in the run and take precedence over class names. Without changes
    the run is only read. Use picie predict or picie report to see the segments.
    """
    from picie.naming import changes as naming
    from picie.naming import history, overview, tables, teaching

    check_file("--write", write)
    changes = naming.Changes(
        reset, k, file, _names(names or []), _splits(split or []), [_merge(text) for text in merge or []], merge_to
    )
    if undo and changes:
        raise InputError("--undo: cannot be combined with changes; use two commands")
    if undo:
        typer.echo(f"undone: {history.undo(run)}")
    if changes:
        naming.change(run, changes, data, device)
    tables.show_segments(overview.overview(run, data, device), teaching.taught(run))
    if write is not None:
        naming.write_names(run, write)


def _names(texts: Sequence[str]) -> dict[int | str, tuple[str, str]]:
    """Parse SEGMENT=NAME[:#rrggbb] strings into a mapping by segment."""
    parsed: dict[int | str, tuple[str, str]] = {}
    for text in texts:
        segment, equals, value = text.partition("=")
        if not equals or not segment.strip() or not value.strip():
            raise InputError(f"{text!r}: is not a name; write SEGMENT=NAME or SEGMENT=NAME:#rrggbb, e.g. 0=sky")
        if value.strip().isdigit() and not segment.strip().isdigit():
            raise InputError(f"{text!r}: write the segment first, {value}={segment}")
        if segment in parsed:
            raise InputError(f"{segment}: is named twice; name each segment once")
        parsed[segment] = _name_and_color(value)
    return parsed


def _name_and_color(text: str) -> tuple[str, str]:
    """Split NAME:#rrggbb. Raises `InputError` for another colour."""
    name, colon, color = text.rpartition(":")
    if not colon:
        return text, ""
    if not color.startswith("#"):
        raise InputError(f"{text}: {color!r} is not a colour; write #rrggbb after the colon, e.g. {name or 'sea'}:#3060c0")
    return name, color


def _splits(texts: Sequence[str]) -> dict[int | str, int]:
    parsed: dict[int | str, int] = {}
    for text in texts:
        segment, _, parts = text.rpartition(":")
        if not segment or not re.fullmatch("[0-9]{1,5}", parts) or segment in parsed:
            raise InputError(f"--split {text}: write SEGMENT:N, e.g. 2:3, each segment once")
        parsed[segment] = int(parts)
    return parsed


def _merge(text: str) -> tuple[list[str], str, str]:
    segments, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise InputError(f"--merge {text}: write SEGMENT,SEGMENT,...=NAME, e.g. 1,4,9=plant")
    return (segments.split(","), *_name_and_color(value))


@app.command("suggest-k")
def suggest_k(
    run: _Run,
    smallest: Annotated[int, typer.Option("--from", metavar="K", help="Smallest number tried.")] = 2,
    largest: Annotated[int, typer.Option("--to", metavar="K", help="Largest number tried.")] = 40,
    json_file: Annotated[
        Optional[Path], typer.Option("--json", metavar="FILE", help="Also write the results to this file.")
    ] = None,
    data: _Data = None,
    device: _Device = "auto",
    trust: Trust = False,
) -> None:
    """Suggest a number of clusters from a run's features, without labels: the quality of each K,
    and a recommendation.
    """
    from picie.naming import suggestion, tables

    check_file("--json", json_file)
    result: Any = suggestion.suggest_k(run, smallest, largest, data, device)
    tables.show_suggestion(result, run)
    write_json(json_file, result.to_dict())
