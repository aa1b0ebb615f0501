"""The pictures that `picie predict` opens: in memory, by rows, or frame by frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from picie.data.frames import VIDEO_SUFFIXES, Frames, open_frames
from picie.data.images import deep_files, measure_scales, open_image
from picie.data.raster_files import RasterFile, open_raster
from picie.data.remarks import MORE_BANDS, inspect
from picie.data.scaling import Reading, Scale
from picie.errors import UnreadableImageError
from picie.inference.prediction_record import signature
from picie.inference.remote_files import Fetched, RemoteFile, Source, fetched, temporary_folder

Picture = Image.Image | RasterFile | Frames
_GROUP_BYTES = 2**29


Opened = tuple[Fetched, list[int], Picture | UnreadableImageError]
"""A file, its `signature`, and the picture, or the error."""


def open_source(file: Fetched, reading: Reading, frames: str) -> Opened:
    """Open a file, in a thread that reads ahead.

    Args:
        file: the file.
        reading: how it becomes an 8-bit image.
        frames: "all" opens every frame of animations and every page of TIFFs, "first" the first.

    Returns:
        `file`, its `signature`, and the picture, or the error.
    """
    if file.error:
        return file, [0, 0], UnreadableImageError(file.error)
    try:
        read = signature(file.source)
    except OSError as error:
        return file, [0, 0], UnreadableImageError(f"{file.source}: cannot be read ({error.strerror})")
    try:
        opened: Picture | None = None
        if frames == "all" or file.path.suffix.lower() in VIDEO_SUFFIXES:
            opened = open_frames(file.path, reading)
        return file, read, opened or open_raster(file.path, reading) or open_image(file.path, reading)
    except UnreadableImageError as error:
        return file, read, error


def measured_scales(sources: Sequence[Source], reading: Reading) -> dict[str, Scale]:
    """Return one scale for each type of more than 8 bits, as `measure_scales` does.

    Of files elsewhere at most 32, evenly spaced, are downloaded for it.
    """
    local = [source for source in sources if isinstance(source, Path)]
    remote = deep_files([source for source in sources if isinstance(source, RemoteFile)])
    with temporary_folder() as folder:
        copies = [file.path for file in fetched(remote, folder) if not file.error]
        return measure_scales([*local, *copies], reading)


def grouped(opened: Iterable[Opened], size: int) -> Iterator[list[Opened]]:
    """Yield groups of up to `size` pictures, which hold at most 512 MB, or a single one."""
    group: list[Opened] = []
    held = 0
    for one in opened:
        picture = one[2]
        cost = 4 * picture.width * picture.height if isinstance(picture, Image.Image) else 0
        if group and held + cost > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group, held = [*group, one], held + cost
        del one, picture
        if len(group) == size:
            yield group
            group, held = [], 0
    if group:
        yield group


def remarks_on(picture: Picture | UnreadableImageError) -> Sequence[str]:
    """Return remarks on a picture, as `picie.data.remarks.inspect` does."""
    if isinstance(picture, RasterFile):
        return (MORE_BANDS,) if picture.more_bands else ()
    return inspect(picture) if isinstance(picture, Image.Image) else ()
