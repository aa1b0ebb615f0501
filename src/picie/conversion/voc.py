"""Pascal VOC: indexed PNGs with the colours of the segments, photos, and lists of names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from picie.conversion.base import ConvertOptions, Format, Picture, Target
from picie.conversion.photos import Photo, photo_for, place_photo
from picie.conversion.regions import find_regions
from picie.display.colors import Color
from picie.display.overlays import index_image
from picie.errors import InputError

VOID = 255
_BLACK = (0, 0, 0)  # the background; void, too, so that tools which read colours leave it without a label


class Voc(Format):
    """Pascal VOC: a folder of class PNGs, photos as JPEG, and labelmap.txt, as CVAT imports it.

    Segment v has the value v + 1. Value 0, the background, does not occur. Pixels without a
    segment, and those of components left out, are 255 (void).
    """

    options = frozenset({"min_area", "photos"})

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        if len(target.names) > VOID - 1:
            raise InputError(f"voc holds at most {VOID - 1} segments, not {len(target.names)}; merge some by `picie name`")
        super().__init__(target, options, place)
        self.colors = _distinct([_BLACK, *target.rgb()])
        lists = place / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        self.train_list = (lists / "train.txt").open("w", encoding="utf-8")

    def encode(self, picture: Picture) -> tuple[str, bytes, Photo | None]:
        picture.name.encode()  # raises if the name is not valid Unicode
        if picture.name.splitlines() != [picture.name] or picture.name != picture.name.strip():
            raise InputError(
                f"{picture.photo!r}: the name has a line break, or a space at an end, which a list of names cannot hold; "
                "rename the photo and predict it again"
            )
        labels, n = picture.labels, len(self.target.names)
        values = np.where(labels < n, labels + 1, VOID).astype(np.uint8)
        if self.chosen.min_area > 1:
            kept = np.zeros(labels.shape, bool)
            for region in find_regions(labels, n, min_area=self.chosen.min_area):
                left, top, width, height = region.box
                kept[top : top + height, left : left + width] |= region.mask()
            values[~kept] = VOID
        image = index_image(values, [*self.colors, *[_BLACK] * (VOID + 1 - len(self.colors))])
        file = io.BytesIO()
        image.save(file, "PNG")
        return picture.name, file.getvalue(), photo_for(picture, self.chosen.photos, jpeg=True)

    def write(self, encoded: tuple[str, bytes, Photo | None]) -> None:
        name, data, photo = encoded
        target = self.place / "SegmentationClass" / PurePosixPath(f"{name}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        if photo is not None:
            place_photo(photo, self.place / "JPEGImages" / PurePosixPath(f"{name}{photo.suffix}"))
        self.train_list.write(f"{name}\n")

    def finish(self) -> None:
        rows = ["# label:color_rgb:parts:actions\n"]
        for name, color in zip(["background", *self.target.names], self.colors, strict=True):
            rows.append(f"{name.replace(':', '-')}:{','.join(map(str, color))}::\n")
        (self.place / "labelmap.txt").write_text("".join(rows), "utf-8")

    def close(self) -> None:
        self.train_list.close()


def _distinct(colors: Sequence[Color]) -> list[Color]:
    """Change colours that occur twice, so that masks can be decoded by their colours."""
    taken: set[Color] = set()
    distinct = []
    for color in colors:
        code = int.from_bytes(color)
        while (unused := (code >> 16, code >> 8 & 255, code & 255)) in taken:
            code = (code + 1) % 2**24
        taken.add(unused)
        distinct.append(unused)
    return distinct
