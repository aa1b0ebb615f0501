"""The image formats that picie reads: one list for all commands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

with contextlib.suppress(ImportError):  # the extra picie[heic]
    import pillow_heif

    pillow_heif.register_heif_opener()

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_SUFFIXES = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "HEIF": tuple(HEIF_SUFFIXES),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PCX": (".pcx",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}

Image.init()
DECODERS = tuple(name for name in _SUFFIXES if name in Image.OPEN)
"""The Pillow decoders in use. None runs another program, unlike Pillow's EPS decoder."""

_lock = threading.Lock()
_opening = 0  # threads in `without_limit`
_limit = Image.MAX_IMAGE_PIXELS

IMAGE_SUFFIXES = frozenset(suffix for name in DECODERS for suffix in _SUFFIXES[name])
"""Endings of image files, in lower case."""


def open_with_pillow(file: Path | BinaryIO) -> Image.Image:
    """Open an image with one of `DECODERS`, whatever its number of pixels.

    Callers check `data.max_pixels` instead of Pillow's limit. Raises any exception of the decoders.
    """
    with without_limit():
        return Image.open(file, formats=DECODERS)


def unsupported_kind(file: BinaryIO) -> str | None:
    """Name the kind of an image that no decoder reads, if it is one of these; None otherwise."""
    file.seek(0)
    start = file.read(2**20)
    file.seek(0)
    if start.startswith(b"8BPS") and len(start) >= 26:
        return f"a PSD of {int.from_bytes(start[22:24])} bits per channel and colour mode {int.from_bytes(start[24:26])}"
    if start.startswith((b"PF\n", b"PF ")):
        return "a PFM with colours"
    if start.startswith(b"P7\n"):
        return "a PAM"
    precision = _jpeg_precision(start) if start.startswith(b"\xff\xd8") else None
    return None if precision in {None, 8} else f"a JPEG of {precision} bits per channel"


def _jpeg_precision(start: bytes) -> int | None:
    """Bits per channel in the frame header of a JPEG; None if there is none in `start`."""
    position = 2
    while position + 5 <= len(start) and start[position] == 0xFF:
        marker = start[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            return start[position + 4]
        position += 2 + int.from_bytes(start[position + 2 : position + 4])
    return None


@contextlib.contextmanager
def without_limit() -> Iterator[None]:
    """Suspend Pillow's limit on pixels, which is an attribute of its module, shared by threads."""
    global _opening, _limit
    with _lock:
        if _opening == 0:
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _opening += 1
    try:
        yield
    finally:
        with _lock:
            _opening -= 1
            if _opening == 0:
                Image.MAX_IMAGE_PIXELS = _limit
