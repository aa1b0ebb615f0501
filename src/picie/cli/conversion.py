"""`picie convert`, and `picie predict --format`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from picie.conversion.convert import Summary

FOLDER = "formats"
"""The folder below that of the predictions for the results of `picie predict --format`."""


class Shape(StrEnum):
    """How the pixels of an object are written."""

    mask = "mask"
    polygon = "polygon"


class Per(StrEnum):
    """What is one object."""

    segment = "segment"
    component = "component"


class Photos(StrEnum):
    """How photos come into the folder."""

    link = "link"
    copy = "copy"
    none = "none"


Formats = Annotated[
    Optional[list[str]],
    typer.Option(
        "--format",
        metavar="FORMAT",
        help=f"Also convert the predictions, to --out/{FOLDER}; see `picie list formats`; repeatable.",
    ),
]


def convert(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="The --out folder of `picie predict`.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="The format; see `picie list formats`.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="The file or folder to write, depending on the format.")],
    shape: Annotated[Shape, typer.Option(help="Write masks or polygons: coco, cvat, labelstudio.")] = Shape.mask,
    per: Annotated[
        Per, typer.Option(help="One object for each segment of an image, or for each component: all but voc and yolo.")
    ] = Per.segment,
    min_area: Annotated[int, typer.Option(metavar="N", min=0, help="Leave out components of fewer pixels: all formats.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="PIXELS", min=0, help="Simplify polygons by about as much; 0 follows every pixel: all with polygons."
        ),
    ] = 1.0,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill the holes of components: all with masks or polygons but voc.")
    ] = False,
    photos: Annotated[
        Photos, typer.Option(help="Link or copy the photos into the folder, or neither: voc and yolo.")
    ] = Photos.link,
    url: Annotated[
        Optional[str], typer.Option(metavar="PREFIX", help="What stands before a photo's path in its address: labelstudio.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier conversion at --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only, without log lines and progress.")] = False,
) -> None:
    """Convert predictions to the format of an annotation tool, a training tool, a GIS or a table.

    The names are those of the time of prediction: after `picie name`, repeat `picie predict` first.
    A picture whose label map is damaged is left out; the exit status is then 1.
    """
    from picie.conversion.base import ConvertOptions
    from picie.conversion.convert import convert
    from picie.runtime.progress import set_up_logging

    if quiet:
        set_up_logging(quiet=True)
    options = ConvertOptions(shape.value, per.value, min_area, tolerance, fill_holes, photos.value, url)
    if _report(convert(predictions, to, out, options, overwrite, progress=not quiet)):
        raise typer.Exit(1)


def check_formats(names: Sequence[str]) -> None:
    """Raise `InputError` unless `convert_all` can write these formats."""
    from picie.conversion.convert import find_format

    for name in names:
        find_format(name, where="--format")


def convert_all(predictions: Path, formats: Sequence[str], progress: bool) -> None:
    """Convert new predictions to `formats`, with default options, into their own folder.

    Exits with status 1, after all formats, if an image is missing in one.
    """
    from picie.conversion.convert import convert, default_name

    missing = False
    for name in formats:
        out = predictions / FOLDER / default_name(name)
        missing |= _report(convert(predictions, name, out, overwrite=True, progress=progress))
    if missing:
        raise typer.Exit(1)


def _report(summary: Summary) -> bool:
    """Print the result. Returns whether an image is missing in it."""
    skipped = f", {len(summary.skipped)} skipped" if summary.skipped else ""
    typer.echo(f"{summary.converted} images -> {summary.out}{skipped}")
    return bool(summary.skipped)
