"""`picie teach`: names from clicks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Optional

import typer

from picie.cli.options import Trust
from picie.errors import InputError

_SHOWN = 5  # clicks that the classifier does not follow


def teach(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    clicks: Annotated[
        Optional[Path], typer.Argument(metavar="[CLICKS.json]", help='{"photos/a.jpg": [[x, y, "road"], ...], ...}')
    ] = None,
    labels: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Also use the label maps of this labelled folder.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --labels to use.")] = "train",
    undo: Annotated[bool, typer.Option("--undo", help="Return to the clusters and names from before teaching.")] = False,
    data: Annotated[Optional[Path], typer.Option(help="Folder of images to use. [default: the training images]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    trust: Trust = False,
) -> None:
    """Teach a run classes by a few named pixels; all commands then use them in place of the
    clusters.

    The file lists pixels (x, y) of the upright pictures; paths are relative to the file. Each call
    replaces what was taught before. The clusters are kept; --undo returns to them.
    """
    from picie.inference.clicks import read_clicks
    from picie.naming import teaching

    if undo:
        if clicks is not None or labels is not None:
            raise InputError("--undo: cannot be combined with clicks or --labels; use two commands")
        teaching.undo(run)
        typer.echo(f"{run}: the clusters and names from before teaching are in use again")
        return
    if clicks is None and labels is None:
        raise InputError("nothing to teach: give a file of clicks, or --labels DIR, or --undo")
    listed = read_clicks(clicks) if clicks is not None else []
    result = teaching.teach(run, listed, teaching.TeachOptions(data, labels, split, device))
    total = sum(result.clicks.values())
    typer.echo(f"{len(result.clicks)} classes from {total} clicks: {_listed(result.clicks)}")
    named = [click.name for click in listed]
    others = [(click, now) for click, now in zip(listed, result.predicted, strict=False) if click.name != now]
    if named:
        typer.echo(f"{len(named) - len(others)} of {len(named)} clicks are predicted as they were named")
    for click, now in others[:_SHOWN]:
        typer.echo(f"  {click.image} ({click.x}, {click.y}): named {click.name}, predicted {now}")
    if len(others) > _SHOWN:
        confusions = Counter((click.name, now) for click, now in others).most_common(_SHOWN)
        typer.echo("  most often: " + ", ".join(f"{name} as {now} ({count})" for (name, now), count in confusions))
    typer.echo(f"in use by predict, evaluate, export, report and app; to undo: picie teach {run} --undo")


def _listed(clicks: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in clicks.items())
