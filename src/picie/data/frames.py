"""Files of several pictures: TIFFs of several pages, animations, and videos."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from picie.data.formats import open_with_pillow, without_limit
from picie.data.images import compose, to_rgb, upright
from picie.data.pixels import check_pixels, read_header, tiff_pages
from picie.data.scaling import Reading
from picie.errors import UnreadableImageError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
"""Endings of video files, in lower case."""

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}  # counterclockwise


@dataclass(frozen=True)
class Frames:
    """The frames of a file, read one after the other.

    Attributes:
        path: the file.
        reading: how the pages of a TIFF become 8-bit images.
        width: the width of the first frame in pixels.
        height: its height.
        count: the number of frames; of a video as far as its header says, or None.
        rate: frames per second of a video; None: it is not a video.
    """

    path: Path
    reading: Reading
    width: int
    height: int
    count: int | None
    rate: Fraction | None = None

    def __iter__(self) -> Iterator[Image.Image]:
        """Yield each frame as an upright image of mode RGB.

        Raises:
            UnreadableImageError: the file is damaged, or a frame has more than
                `reading.max_pixels`.
        """
        number = 0
        try:
            for frame in self._decoded():
                number += 1
                yield frame
        except UnreadableImageError:
            raise
        except GeneratorExit:
            raise
        except Exception as error:  # a decoder may raise anything for a damaged file
            raise _unreadable(self.path, error, f"frame {number + 1}: ") from error

    def _decoded(self) -> Iterator[Image.Image]:
        if self.rate is not None:
            return _video_frames(self.path, self.reading.max_pixels)
        return _pages(self.path, self.reading)


def open_frames(path: Path, reading: Reading) -> Frames | None:
    """Open a file of several pictures.

    Returns:
        Its frames; None if it is not a video, has a single picture, or cannot be read.

    Raises:
        UnreadableImageError: it is a video that cannot be read, or PyAV is not installed.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(path, reading)
    if not path.is_file():  # opening a named pipe would block forever
        return None
    try:
        with path.open("rb") as file:
            header = read_header(file)
    except Exception:  # reported when the file is decoded
        return None
    if header.pages < 2 or header.size[0] * header.size[1] > reading.max_pixels:
        return None
    height, width = header.size if header.orientation < 5 else header.size[::-1]
    return Frames(path, reading, width, height, header.pages)


def _open_video(path: Path, reading: Reading) -> Frames:
    if importlib.util.find_spec("av") is None:
        raise UnreadableImageError(f"{path}: videos need PyAV; pip install 'picie[video]'")
    import av

    try:
        if not path.is_file():  # opening a named pipe would block forever
            raise ValueError("it is not a regular file")
        with av.open(str(path.absolute())) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            size = (stream.codec_context.width, stream.codec_context.height)
            check_pixels(*size, reading.max_pixels)
            return Frames(path, reading, *size, stream.frames or None, Fraction(rate))
    except Exception as error:  # FFmpeg raises many kinds
        raise _unreadable(path, error) from error


def _video_frames(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    import av

    with av.open(str(path.absolute())) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            check_pixels(frame.width, frame.height, max_pixels)  # the size can change within a video
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
            turn = _TURNS.get(frame.rotation % 360)
            yield image if turn is None else image.transpose(turn)


def _pages(path: Path, reading: Reading) -> Iterator[Image.Image]:
    with path.open("rb") as file:
        if read_header(file).is_tiff:
            file.seek(0)
            for pixels in tiff_pages(file, reading.max_pixels, reading.bands):
                yield compose(pixels, reading)
            return
        file.seek(0)
        with without_limit(), open_with_pillow(file) as image:
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                check_pixels(*image.size, reading.max_pixels)
                image.load()
                yield Image.fromarray(np.asarray(to_rgb(upright(image))))


def _unreadable(path: Path, error: Exception, where: str = "") -> UnreadableImageError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UnreadableImageError(f"{path}: cannot be read ({where}{reason}); replace or remove it")
