"""Label maps as pictures: overlays, legends and sheets, all with the colours of the label map."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from picie.display.colors import CONFIDENCE, Color

_OPACITY = 0.55
_PIXELS_AT_ONCE = 2**22  # pixels of an overlay drawn at once: about 100 MB
_FONT_SIZE = 14
_GAP = 6
_NAMED = 0.02  # smallest share of the picture that a region with a name takes
_NAMED_SIDE = 256  # longest side in pixels of the map that regions are searched in


@dataclass(frozen=True)
class Region:
    """A large connected region of a label map.

    Attributes:
        value: its value.
        x: column of its innermost point, as a fraction of the width.
        y: row of its innermost point, as a fraction of the height.
        share: its share of the picture's pixels.
    """

    value: int
    x: float
    y: float
    share: float


def colorize(labels: np.ndarray, colors: Sequence[Color], unlabelled: Color = (0, 0, 0)) -> Image.Image:
    """Convert a label map (H, W) to an RGB picture.

    Values without a colour become `unlabelled`.
    """
    if labels.dtype == np.uint8:  # four times as fast
        image = Image.fromarray(labels)
        entries = [*colors, *[unlabelled] * (256 - len(colors))][:256]
        image.putpalette([channel for color in entries for channel in color])
        return image.convert("RGB")
    table = np.array([*colors, unlabelled], dtype=np.uint8)
    return Image.fromarray(table[np.where(labels < len(colors), labels, len(colors)).astype(np.int64)])


def overlay(image: Image.Image, labels: np.ndarray, colors: Sequence[Color]) -> Image.Image:
    """Blend the colours of `labels` (H, W) over an RGB `image` of that size, with borders."""
    blended = image.copy()
    draw_overlay(blended, labels, colors)
    return blended


def draw_overlay(image: Image.Image, labels: np.ndarray, colors: Sequence[Color]) -> None:
    """Draw an `overlay` into `image` itself, some rows at a time, to save memory."""
    height, width = labels.shape
    rows = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, rows):
        part = labels[top : top + rows]
        box = (0, top, width, top + len(part))
        blended = Image.blend(image.crop(box), colorize(part, colors), _OPACITY)
        border = np.zeros(part.shape, dtype=bool)
        first = top == 0
        border[first:] = labels[top + first : top + len(part)] != labels[top + first - 1 : top + len(part) - 1]
        border[:, 1:] |= part[:, 1:] != part[:, :-1]
        image.paste(blended, box)
        darker = Image.eval(blended, lambda value: value // 3)
        image.paste(darker, box, Image.fromarray(border))


def large_regions(labels: np.ndarray) -> list[Region]:
    """Find the connected regions of `labels` (H, W) that take at least 2 % of it, largest first.

    >>> large_regions(np.array([[0, 0, 0, 1]]))
    [Region(value=0, x=0.375, y=0.5, share=0.75), Region(value=1, x=0.875, y=0.5, share=0.25)]
    """
    step = region_step(labels.shape)
    return regions_of_reduced(labels[step // 2 :: step, step // 2 :: step])


def region_step(size: tuple[int, ...]) -> int:
    """Every how many pixels, from the middle of that number on, a map of `size` (H, W) is searched for regions."""
    return -(-max(size) // _NAMED_SIDE)


def regions_of_reduced(small: np.ndarray) -> list[Region]:
    """Find the large regions of a label map of which every `region_step`-th pixel is given."""
    values, counts = np.unique(small, return_counts=True)
    regions = []
    for value in values[counts >= _NAMED * small.size]:
        parts, n = ndimage.label(small == value)
        for part, box in enumerate(ndimage.find_objects(parts, n), 1):
            inside = np.pad(parts[box] == part, 1)  # the picture's edge is an edge of the region
            share = inside.sum() / small.size
            if share >= _NAMED:
                y, x = (at + start.start - 0.5 for at, start in zip(_innermost(inside), box, strict=True))
                regions.append(Region(int(value), x / small.shape[1], y / small.shape[0], float(share)))
    return sorted(regions, key=lambda region: -region.share)


def _innermost(inside: np.ndarray) -> tuple[int, int]:
    """Return the row and column far from the border of a region; of several, the most central."""
    depth = ndimage.distance_transform_edt(inside)
    deep = np.argwhere(depth >= 0.9 * depth.max())
    row, column = deep[np.square(deep - np.argwhere(inside).mean(0)).sum(1).argmin()]
    return int(row), int(column)


def draw_names(image: Image.Image, labels: np.ndarray, names: Sequence[str], size: int | None = None) -> None:
    """Write the names of the large regions of `labels` (H, W) into an RGB `image` of that size.

    Args:
        image: is drawn into.
        labels: the label map.
        names: the name of each value.
        size: the size of the font in pixels; None chooses it by the size of the image.
    """
    NamesInPlace(large_regions(labels), names, image.size, size).draw(image)


class NamesInPlace:
    """The names of large regions, and where they are written in a picture.

    A name that would cover that of a larger region, or is wider than the picture, is left out.

    Args:
        regions: the regions, largest first; those of a value without a name are left out.
        names: the name of each value.
        picture: (W, H) of the picture.
        size: the size of the font in pixels; None chooses it by the size of the picture.
    """

    def __init__(
        self, regions: Sequence[Region], names: Sequence[str], picture: tuple[int, int], size: int | None = None
    ) -> None:
        self._size = size = size or max(10, round(min(picture) / 24))
        self._font = ImageFont.load_default(size)
        self._names: list[tuple[str, tuple[float, float, float, float]]] = []
        for region in regions:
            if region.value >= len(names):
                continue
            width = self._font.getlength(names[region.value]) + size / 2
            left = min(max(0.0, region.x * picture[0] - width / 2), picture[0] - width)
            top = min(max(0.0, region.y * picture[1] - 0.75 * size), picture[1] - 1.5 * size)
            box = (left, top, left + width, top + 1.5 * size)
            taken = [other for _, other in self._names]
            if left < 0 or any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                continue
            self._names.append((names[region.value], box))

    def draw(self, image: Image.Image, top: int = 0) -> None:
        """Write the names into the rows of the picture from `top` on, an RGB `image`."""
        draw, stroke = ImageDraw.Draw(image), max(1, self._size // 8)
        for name, (left, upper, right, lower) in self._names:
            if lower + stroke > top and upper - stroke < top + image.height:
                middle = ((left + right) / 2, (upper + lower) / 2 - top)
                draw.text(middle, name, "white", self._font, "mm", stroke_width=stroke, stroke_fill="black")


def confidence_image(margins: np.ndarray) -> Image.Image:
    """Convert margins (H, W) uint8 to an RGB picture, from dark (unsure) to light (sure).

    >>> confidence_image(np.array([[0, 255]], dtype=np.uint8)).getpixel((1, 0))
    (246, 215, 70)
    """
    at, stops = np.arange(256) / 255 * (len(CONFIDENCE) - 1), np.array(CONFIDENCE)
    table = np.stack([np.interp(at, np.arange(len(stops)), channel) for channel in stops.T], axis=1)
    return Image.fromarray(table.round().astype(np.uint8)[margins])


def index_image(labels: np.ndarray, colors: Sequence[Color]) -> Image.Image:
    """Convert a label map (H, W) to an image of mode P, or I;16 for more than 256 values."""
    if len(colors) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([channel for color in colors for channel in color])
    return image


def legend(names: Sequence[str], colors: Sequence[Color], width: int) -> Image.Image:
    """Draw colour patches with their names, in rows of about `width` pixels."""
    font = ImageFont.load_default(_FONT_SIZE)
    patch, line = _FONT_SIZE + 2, _FONT_SIZE + 10
    widths = [patch + 2 * _GAP + round(font.getlength(name)) + 2 * _GAP for name in names]
    places, x, y = [], _GAP, 0
    for item in widths:
        if x + item > width and x > _GAP:
            x, y = _GAP, y + line
        places.append((x, y))
        x += item
    strip = Image.new("RGB", (max(width, max(widths, default=0) + _GAP), y + line + _GAP), "white")
    draw = ImageDraw.Draw(strip)
    for (left, top), name, color in zip(places, names, colors, strict=True):
        draw.rectangle((left, top + _GAP, left + patch, top + _GAP + patch), fill=color, outline=(90, 90, 90))
        draw.text((left + patch + _GAP, top + _GAP), name, fill="black", font=font)
    return strip


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], key: Image.Image | None = None) -> Image.Image:
    """Draw pictures of one size in rows, with column titles above and the legend `key` below."""
    font = ImageFont.load_default(_FONT_SIZE)
    width, height = rows[0][0].size
    head = _FONT_SIZE + 2 * _GAP
    total = (_GAP + len(titles) * (width + _GAP), head + len(rows) * (height + _GAP))
    page = Image.new("RGB", (max(total[0], key.width if key else 0), total[1] + (key.height if key else 0)), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (width + _GAP), _GAP), title, fill="black", font=font)
        for row, pictures in enumerate(rows):
            page.paste(pictures[column], (_GAP + column * (width + _GAP), head + row * (height + _GAP)))
    if key is not None:
        page.paste(key, (0, total[1]))
    return page


def encoded(image: Image.Image, kind: str) -> bytes:
    """Return the content of an image file of a `kind`, "PNG" or "JPEG"."""
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return file.getvalue()
