"""The image formats that picie reads: one list for all commands."""

from __future__ import annotations

import contextlib
import warnings

from PIL import Image

with contextlib.suppress(ImportError):  # the extra picie[heic]
    import pillow_heif

    pillow_heif.register_heif_opener()

# Pillow warns about damaged metadata; picie reports relevant problems once.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Pillow raises for images above this limit and warns above half of it. picie checks
# data.max_pixels instead.
Image.MAX_IMAGE_PIXELS = None

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

IMAGE_SUFFIXES = frozenset(suffix for name in DECODERS for suffix in _SUFFIXES[name])
"""Endings of image files, in lower case."""
