"""COCO: one JSON file of images, categories and annotations."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from picie.conversion.base import MASKS, ConvertOptions, Format, Picture, Target
from picie.conversion.json_lists import JsonList
from picie.conversion.polygons import PACKAGES, find_outlines, one_ring
from picie.conversion.regions import Region, find_regions, run_lengths
from picie.version import __version__


class Coco(Format):
    """COCO's JSON file of annotations, with RLE masks or polygons.

    The category of value v has the id v + 1. `file_name` is relative to the folder of the photos.
    """

    options = MASKS
    suffixes = (".json",)

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        super().__init__(target, options, place)
        self.file = place.open("w", encoding="ascii")
        self.images_file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 (`close` closes it)
        categories = [
            {"id": value + 1, "name": name, "supercategory": "segment", "isthing": 0, "color": list(color)}
            for value, (name, color) in enumerate(zip(target.names, target.rgb(), strict=True))
        ]
        info = {"description": f"Segments predicted by picie {__version__}", "photos": str(target.root)}
        head = json.dumps({"info": info, "licenses": [], "categories": categories})
        self.file.write(head.removesuffix("}") + ',\n"annotations": ')
        self.annotations, self.images = JsonList(self.file), JsonList(self.images_file)

    @classmethod
    def needs(cls, options: ConvertOptions) -> dict[str, str]:
        return {"pycocotools": "coco", **(PACKAGES if options.shape == "polygon" else {})}

    def encode(self, picture: Picture) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        image = {"file_name": picture.photo, "width": picture.width, "height": picture.height}
        n = len(self.target.names)
        if self.chosen.shape == "mask":
            regions = find_regions(
                picture.labels, n, self.chosen.per == "component", self.chosen.min_area, self.chosen.fill_holes
            )
            return image, [_mask(region, picture.height, picture.width) for region in regions]
        outlines = find_outlines(picture.labels, n, self.chosen)
        return image, [_polygons(outline.value, [one_ring(part) for part in outline.parts]) for outline in outlines]

    def write(self, encoded: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
        image, annotations = encoded
        number = self.images.length + 1
        self.images.add({"id": number, **image})
        for annotation in annotations:
            self.annotations.add({"id": self.annotations.length + 1, "image_id": number, **annotation, "iscrowd": 0})

    def finish(self) -> None:
        self.annotations.end()
        self.images.end()
        self.file.write(',\n"images": ')
        self.images_file.seek(0)
        shutil.copyfileobj(self.images_file, self.file)
        self.file.write("}\n")

    def close(self) -> None:
        self.file.close()
        self.images_file.close()


def _mask(region: Region, height: int, width: int) -> dict[str, Any]:
    from pycocotools import mask as codec

    left, top, box_width, box_height = region.box
    # COCO counts down the columns.
    counts = run_lengths(region.mask().T, top, left, (width, height))
    rle = codec.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    segmentation = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    box = [left, top, box_width, box_height]
    return {"category_id": region.value + 1, "segmentation": segmentation, "area": region.area, "bbox": box}


def _polygons(value: int, rings: list[np.ndarray]) -> dict[str, Any]:
    corners = np.concatenate(rings)
    low, high = corners.min(axis=0), corners.max(axis=0)
    box, area = [*low.tolist(), *(high - low).tolist()], sum(_area(ring) for ring in rings)
    segmentation = [np.round(ring, 2).reshape(-1).tolist() for ring in rings]
    return {"category_id": value + 1, "segmentation": segmentation, "area": area, "bbox": box}


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
