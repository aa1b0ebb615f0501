"""`picie app`: the interactive page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Optional

import typer

from picie.cli.options import Trust
from picie.errors import InputError


def page(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    images: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="Pictures to choose from and to search for neighbours. [default: the run's own]"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any other than the default makes the page reachable from other machines.")
    ] = "127.0.0.1",
    max_mb: Annotated[int, typer.Option(min=1, max=1000, help="Maximum size of an uploaded file, in megabytes.")] = 20,
    max_megapixels: Annotated[
        int, typer.Option(min=1, max=178, help="Maximum size of an uploaded picture, in megapixels.")
    ] = 40,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    trust: Trust = False,
) -> None:
    """Serve a local page: look at pictures, and name, merge, split and teach their segments.

    It prints its address and serves until Ctrl-C. Changes are stored in the run, as by `picie name`
    and `picie teach`, and can be undone. The page also exports all pictures.
    """
    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise InputError("app: Starlette and uvicorn are not installed; run: pip install 'picie[app]'")
    from picie.app.listening import Listening
    from picie.app.server import Limits

    listening = Listening(run, images, host, port, Limits(max_mb, max_megapixels), device)
    typer.echo(listening.url)
    listening.run()
