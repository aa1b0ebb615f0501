"""YOLO segmentation: images/, labels/ with one polygon a line, and data.yaml."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from picie.conversion.base import ConvertOptions, Format, Picture
from picie.conversion.photos import Photo, photo_for, place_photo
from picie.conversion.polygons import PACKAGES, find_outlines, one_ring


class Yolo(Format):
    """YOLO segmentation: a folder with images, one polygon a line in labels, and data.yaml.

    Each component is an object. Coordinates are fractions of the picture's width and height. The
    class is the segment's value.
    """

    options = frozenset({"min_area", "tolerance", "fill_holes", "photos"})

    @classmethod
    def needs(cls, options: ConvertOptions) -> dict[str, str]:
        return PACKAGES

    def encode(self, picture: Picture) -> tuple[str, str, Photo | None]:
        lines = []
        for outline in find_outlines(picture.labels, len(self.target.names), self.chosen):
            for part in outline.parts:
                corners = one_ring(part) / (picture.width, picture.height)
                lines.append(" ".join([str(outline.value), *(f"{number:.7g}" for number in corners.reshape(-1))]))
        return picture.name, "".join(f"{line}\n" for line in lines), photo_for(picture, self.chosen.photos)

    def write(self, encoded: tuple[str, str, Photo | None]) -> None:
        name, text, photo = encoded
        labels = self.place / "labels" / f"{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(text, "ascii")
        if photo is not None:
            place_photo(photo, self.place / "images" / PurePosixPath(f"{name}{photo.suffix}"))

    def finish(self) -> None:
        names = [f"  {value}: {json.dumps(name)}\n" for value, name in enumerate(self.target.names)]
        lines = [f"path: {json.dumps(str(self.target.out))}\n", "train: images\n", "val: images\n", "names:\n", *names]
        (self.place / "data.yaml").write_text("".join(lines), "ascii")
