"""`picie data`: check, download and curate datasets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from picie import registry

app = typer.Typer(
    name="data", no_args_is_help=True, rich_markup_mode=None, help="Check, download and curate benchmark datasets."
)

_Name = Annotated[str, typer.Argument(help="A name from `picie list datasets`.")]
_Root = Annotated[Path, typer.Argument(help="The dataset's folder.")]


class TerminalReporter:
    """Prints lines to stdout and shows progress bars on stderr."""

    def line(self, text: str) -> None:
        """Print `text`."""
        typer.echo(text)

    @contextlib.contextmanager
    def bar(self, name: str, total: int | None, unit: Literal["images", "bytes"] = "images") -> Iterator[Callable[[int], None]]:
        """Show a progress bar; see `picie.data.admin.reporting.Reporter`."""
        from picie.runtime.progress import Progress

        with Progress(unit=unit) as bars, bars.bar(name, total) as advance:
            yield advance


@app.command()
def check(
    name: _Name,
    root: Annotated[Optional[Path], typer.Argument(help="The dataset's folder; scenes needs none.")] = None,
) -> None:
    """Show what a dataset's folder contains, what is missing, and what is expected."""
    from picie.data.admin import check

    registry.trust([name])
    for line in check.check(name, root):
        typer.echo(line)


@app.command()
def download(name: _Name, root: _Root) -> None:
    """Download a dataset's official files: show the licence, resume, verify, and unpack."""
    from picie.data.admin import download as downloading

    downloading.download(name, root, TerminalReporter())


@app.command()
def curate(root: _Root) -> None:
    """Recreate COCO-Stuff's curated image lists: images with at least 75 % stuff pixels."""
    from picie.data.admin import curate

    curate.curate(root, TerminalReporter())
