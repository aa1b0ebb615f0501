"""The pictures that `picie predict` opens: in memory, by rows, or frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from picie.data.frames import VIDEO_SUFFIXES, Frames, open_frames
from picie.data.images import open_image
from picie.data.raster_files import RasterFile, open_raster
from picie.data.remarks import MORE_BANDS, inspect
from picie.data.scaling import Reading
from picie.errors import UnreadableImageError
from picie.inference.prediction_record import signature

Picture = Image.Image | RasterFile | Frames


def open_source(source: Path, reading: Reading, frames: str) -> tuple[Path, list[int], Picture | UnreadableImageError]:
    """Open a file, in a thread that reads ahead.

    Args:
        source: the file.
        reading: how it becomes an 8-bit image.
        frames: "all" opens every frame of animations and every page of TIFFs, "first" the first.

    Returns:
        `source`, its `signature`, and the picture, or the error.
    """
    try:
        read = signature(source)
    except OSError as error:
        return source, [0, 0], UnreadableImageError(f"{source}: cannot be read ({error.strerror})")
    try:
        opened: Picture | None = None
        if frames == "all" or source.suffix.lower() in VIDEO_SUFFIXES:
            opened = open_frames(source, reading)
        return source, read, opened or open_raster(source, reading) or open_image(source, reading)
    except UnreadableImageError as error:
        return source, read, error


def remarks_on(picture: Picture) -> Sequence[str]:
    """Return remarks on a picture, as `picie.data.remarks.inspect` does."""
    if isinstance(picture, RasterFile):
        return (MORE_BANDS,) if picture.more_bands else ()
    return inspect(picture) if isinstance(picture, Image.Image) else ()
