"""`picie name` and `picie clusters`: what a run's clusters are called, and how many there should be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from picie.errors import InputError
from picie.runtime.output_paths import check_file, write_json

app = typer.Typer(name="clusters", no_args_is_help=True, rich_markup_mode=None, help="Advice on the clusters of a run.")

_Run = Annotated[Path, typer.Argument(help="A run's folder.")]
_Data = Annotated[Optional[Path], typer.Option(help="Images to look at. [default: those that the run was trained on]")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


@app.callback()
def _group() -> None:
    """Keep `suggest-k` a subcommand though it is the only one."""


def name(
    run: _Run,
    names: Annotated[
        Optional[list[str]], typer.Argument(metavar="SEGMENT=NAME[:#rrggbb]", help="Names, colours (7=:#0000ff) or both.")
    ] = None,
    split: Annotated[
        Optional[list[str]], typer.Option(metavar="SEGMENT:N", help="Split into N, by k-means on its own pixels' features.")
    ] = None,
    merge: Annotated[
        Optional[list[str]], typer.Option(metavar="A,B,...=NAME", help="Put segments under one name; may be repeated.")
    ] = None,
    merge_to: Annotated[Optional[int], typer.Option(metavar="N", help="Merge the most similar until N are left.")] = None,
    k: Annotated[Optional[int], typer.Option("--k", metavar="K", help="Cluster anew into K, without training.")] = None,
    file: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Take all segments from a TOML file.")] = None,
    write: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Write them to a TOML file, in the end.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="First forget all of it: the clusters as they were trained.")] = False,
    data: _Data = None,
    device: _Device = "auto",
) -> None:
    """Name, colour, merge or split the segments of a run, or cluster it anew; then show them.

    SEGMENT is a value or a name of the table that `picie name RUN` shows; in one command all of them mean the table as it was
    before. The order is: --reset, --k, --file, names, --split, --merge, --merge-to. Names are stored in the run and go before
    those of an evaluation. Pictures of what the segments are: picie predict, picie report.
    """
    from picie.naming import changes as naming
    from picie.naming import overview
    from picie.naming import tables as tables_clusters

    check_file("--write", write)
    changes = naming.Changes(
        reset, k, file, _names(names or []), _splits(split or []), [_merge(text) for text in merge or []], merge_to
    )
    if changes:
        naming.change(run, changes, data, device)
    tables_clusters.show_segments(overview.overview(run, data, device))
    if write is not None:
        naming.write_names(run, write)


def _names(texts: Sequence[str]) -> dict[int | str, tuple[str, str]]:
    """SEGMENT=NAME[:#rrggbb] of each, by segment."""
    found: dict[int | str, tuple[str, str]] = {}
    for text in texts:
        segment, equals, value = text.partition("=")
        if not equals or not segment.strip() or not value.strip():
            raise InputError(f"{text!r}: is no name; write SEGMENT=NAME or SEGMENT=NAME:#rrggbb, e.g. 0=sky")
        if segment in found:
            raise InputError(f"{segment}: is named twice; name each segment once")
        found[segment] = _name_and_color(value)
    return found


def _name_and_color(text: str) -> tuple[str, str]:
    name, colon, color = text.partition(":#")
    return name, f"#{color}" if colon else ""


def _splits(texts: Sequence[str]) -> dict[int | str, int]:
    found: dict[int | str, int] = {}
    for text in texts:
        segment, _, parts = text.rpartition(":")
        if not segment or not re.fullmatch("[0-9]{1,5}", parts) or segment in found:
            raise InputError(f"--split {text}: write SEGMENT:N, e.g. 2:3, each segment once")
        found[segment] = int(parts)
    return found


def _merge(text: str) -> tuple[list[str], str, str]:
    segments, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise InputError(f"--merge {text}: write SEGMENT,SEGMENT,...=NAME, e.g. 1,4,9=plant")
    return (segments.split(","), *_name_and_color(value))


@app.command("suggest-k")
def suggest_k(
    run: _Run,
    least: Annotated[int, typer.Option("--from", metavar="K", help="Smallest number tried.")] = 2,
    most: Annotated[int, typer.Option("--to", metavar="K", help="Largest number tried.")] = 40,
    json_file: Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the figures here, too.")] = None,
    data: _Data = None,
    device: _Device = "auto",
) -> None:
    """Say how many clusters a run's features fall into, without labels: figures for each K, and one recommendation."""
    from picie.naming import suggestion
    from picie.naming import tables as tables_clusters

    check_file("--json", json_file)
    result: Any = suggestion.suggest_k(run, least, most, data, device)
    tables_clusters.show_suggestion(result, run)
    write_json(json_file, result.to_dict())
