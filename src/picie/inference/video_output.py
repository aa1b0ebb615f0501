"""Videos of overlays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from picie.runtime.atomic_write import partial_file

_CODECS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}  # the first that is there


class OverlayVideo:
    """An mp4 file that is open for writing.

    Its frames have the size of the first one, without an odd last row or column, which the format
    does not allow.
    """

    def __init__(self, container: Any, rate: Fraction) -> None:
        self._container, self._rate = container, rate
        self._stream: Any = None

    def add(self, image: Image.Image) -> None:
        """Append a frame of mode RGB."""
        import av

        if self._stream is None:
            codec, options = next((name, options) for name, options in _CODECS.items() if name in av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=self._rate, options=options)
            self._stream.width, self._stream.height = (max(2, side // 2 * 2) for side in image.size)
            self._stream.pix_fmt = "yuv420p"
        size = (self._stream.width, self._stream.height)
        alike = abs(image.width - size[0]) < 2 and abs(image.height - size[1]) < 2
        image = image.crop((0, 0, *size)) if alike else image.resize(size)
        self._container.mux(self._stream.encode(av.VideoFrame.from_image(image)))

    def finish(self) -> None:
        """Write the frames that the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


@contextlib.contextmanager
def overlay_video(path: Path, rate: Fraction) -> Iterator[OverlayVideo]:
    """Open a video for the block; it replaces the file at `path` in one step at its end.

    Args:
        path: the file, .mp4.
        rate: frames per second.

    Raises:
        OSError: the file cannot be written.
    """
    import av

    with partial_file(path) as partial, av.open(str(partial.absolute()), "w", format="mp4") as container:
        video = OverlayVideo(container, rate.limit_denominator(100_000))
        yield video
        video.finish()
