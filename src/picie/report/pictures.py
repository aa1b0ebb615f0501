"""Pictures inside a page: reduced, framed, and encoded as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from picie.display.colors import Color
from picie.display.overlays import colorize, index_image

Box = tuple[float, float, float, float]
"""(top, bottom, left, right) in fractions of a picture.

The box is shown mirrored if top > bottom or left > right.
"""

_QUALITY = 82


def fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """(W, H) of a picture after reducing its long side to `longest`.

    Smaller pictures keep their size.

    >>> fitted(960, 720, 400), fitted(64, 48, 400), fitted(4000, 5, 400)
    ((400, 300), (64, 48), (400, 1))
    """
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def jpeg_uri(image: Image.Image) -> str:
    """Encode an RGB picture as a JPEG data URI; meant for photos."""
    return _uri(image, "JPEG", "image/jpeg", quality=_QUALITY)


def map_uri(values: np.ndarray, colors: Sequence[Color]) -> str:
    """Encode a label map (H, W) without loss in its `colors` as a data URI.

    Values without a colour are black.
    """
    exact = index_image(values, colors) if len(colors) <= 256 and values.max() < len(colors) else colorize(values, colors)
    return png_uri(exact)


def png_uri(image: Image.Image) -> str:
    """Encode a picture without loss as a PNG data URI."""
    return _uri(image, "PNG", "image/png", optimize=True)


def _uri(image: Image.Image, kind: str, mime: str, **options: int) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


def to_picture(pixels: Tensor) -> Image.Image:
    """Convert (3, H, W) float in [0, 1] to an RGB picture."""
    return Image.fromarray(pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def with_box(image: Image.Image, box: Box, dot: tuple[float, float] | None = None) -> Image.Image:
    """Copy an RGB picture; draw the outline of `box` and a dot at `dot` (y, x), in fractions."""
    framed = image.copy()
    draw = ImageDraw.Draw(framed)
    (width, height), line = image.size, max(1, round(max(image.size) / 200))
    # the outline stays inside
    top, bottom = (min(max(edge * height, line), height - 1 - line) for edge in sorted(box[:2]))
    left, right = (min(max(edge * width, line), width - 1 - line) for edge in sorted(box[2:]))
    for margin, color, thickness in ((line, "black", 3 * line), (0, "white", line)):
        draw.rectangle((left - margin, top - margin, right + margin, bottom + margin), outline=color, width=thickness)
    if dot is not None:
        mark_corner(draw, dot[1] * width, dot[0] * height, image.size)
    return framed


def with_dot(image: Image.Image) -> Image.Image:
    """Copy an RGB picture and draw the dot in its upper left corner."""
    marked = image.copy()
    mark_corner(ImageDraw.Draw(marked), 0, 0, image.size)
    return marked


def mark_corner(draw: ImageDraw.ImageDraw, x: float, y: float, size: tuple[int, int]) -> None:
    """Draw a dot around (x, y), moved so that it lies inside a picture of `size` (W, H)."""
    radius = max(2.0, max(size) / 28)
    x, y = (min(max(value, radius), end - 1 - radius) for value, end in zip((x, y), size, strict=True))
    draw.ellipse(
        (x - radius, y - radius, x + radius, y + radius), fill="#ffd21f", outline="black", width=max(1, round(radius / 5))
    )
