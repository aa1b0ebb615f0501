"""`picie teach` and `picie uncertain`: names from clicks, and where to click."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Optional

import typer

from picie.cli.options import Trust
from picie.errors import InputError
from picie.runtime.output_paths import check_file, write_json
from picie.runtime.progress import log

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


def uncertain(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Images, or folders searched recursively.")],
    n: Annotated[int, typer.Option("--number", "-n", help="Number of pictures.")] = 20,
    out: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Also write a page of them, a .html file.")] = None,
    json_file: Annotated[
        Optional[Path], typer.Option("--json", metavar="FILE", help="Also write the list to this file.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    trust: Trust = False,
) -> None:
    """List the pictures to look at first: the run is unsure about them, and they differ.

    Each line has the uncertainty in [0, 1], the picture, its least sure pixel, and the two segments
    that it is most often undecided between.
    """
    from picie.inference import uncertain as choosing
    from picie.report.uncertain_page import write_page

    check_file("--json", json_file)
    check_file("--out", out)
    pictures = choosing.uncertain(run, data, n, device)
    log.info("uncertainty, picture, its least sure pixel (x, y), and segments; similar pictures come later")
    for one in pictures:
        typer.echo(f"{one.uncertainty:.3f}  {one.path} ({one.x}, {one.y})  {' / '.join(one.between)}")
    write_json(json_file, {"run": str(run), "pictures": [one.to_dict() for one in pictures]})
    if out is not None:
        typer.echo(f"{write_page(run, pictures, out, device)}")
