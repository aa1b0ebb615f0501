"""`picie report`, `demo` and `list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from picie.cli.options import Trust
from picie.errors import InputError, nearest


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[Optional[Path], typer.Option(metavar="FILE", help="File to write. [default: RUN/report.html]")] = None,
    data: Annotated[Optional[Path], typer.Option(help="Where the dataset is now. [default: its path in training]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    trust: Trust = False,
) -> None:
    """Write one HTML page about a run: examples, scores, clusters, curves, views and settings."""
    from picie.report import write_report

    typer.echo(f"{write_report(run, out, data, device)}")


def demo(
    out: Annotated[Path, typer.Option(help="Output folder for the dataset, the run and the pictures.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Random seed of the scenes and of training.")] = 0,
) -> None:
    """Generate scenes, train, evaluate and predict; takes a few minutes on two CPU cores."""
    from picie.cli import demo as demonstration

    demonstration.demo(out, seed)


def list_(
    what: Annotated[
        Optional[str],
        typer.Argument(metavar="WHAT", help="datasets, backbones, transforms, methods, losses, formats, presets or recipes."),
    ] = None,
) -> None:
    """List the names that an option accepts."""
    from picie.cli import tables

    kinds = ("datasets", "backbones", "transforms", "methods", "losses", "formats", "presets", "recipes")
    if what is None:
        raise InputError(f"list: WHAT is missing; give one of {', '.join(kinds)}, e.g. picie list backbones")
    if what not in kinds:
        raise InputError(f"list: unknown kind {what!r}; {nearest(what, kinds)}")
    tables.show_list(what)
