"""`picie data`: is a dataset complete, get it, and choose its images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    name="data", no_args_is_help=True, rich_markup_mode=None, help="Check, download and curate the datasets of the field."
)

_Name = Annotated[str, typer.Argument(help="A name from `picie list datasets`.")]
_Root = Annotated[Path, typer.Argument(help="The dataset's folder.")]


@app.command()
def check(
    name: _Name,
    root: Annotated[Optional[Path], typer.Argument(help="The dataset's folder; scenes needs none.")] = None,
) -> None:
    """Say what a dataset's folder holds, what is missing, where it was looked for, and what is expected."""
    from picie.data.admin import check

    check.check(name, root)


@app.command()
def download(name: _Name, root: _Root) -> None:
    """Fetch a dataset's official files: licence first, resumed where it stopped, checked, unpacked."""
    from picie.data.admin import download as downloading

    downloading.download(name, root)


@app.command()
def curate(root: _Root) -> None:
    """Write COCO-Stuff's curated image lists anew: the images at least 75 % of whose pixels are stuff."""
    from picie.data.admin import curate

    curate.curate(root)
