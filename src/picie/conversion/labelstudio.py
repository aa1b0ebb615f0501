"""Label Studio: tasks with pre-annotations, as brush masks or polygons, and the labeling interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from picie.conversion.base import MASKS, ConvertOptions, Format, Picture, Target
from picie.conversion.json_lists import JsonList
from picie.conversion.polygons import PACKAGES, find_outlines, one_ring
from picie.conversion.regions import Region, find_regions
from picie.version import __version__

_LOCAL = "/data/local-files/?d="  # Label Studio's address of files in its document root


class LabelStudio(Format):
    """Label Studio: a folder of tasks.json (brush masks or polygons to correct) and interface.xml.

    The address of a photo is `url` and its path. Without `url` it is that of a file in Label
    Studio's local storage, whose document root is the folder that contains the folder of the
    photos.
    """

    options = MASKS | {"url"}

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        super().__init__(target, options, place)
        tag = "BrushLabels" if options.shape == "mask" else "PolygonLabels"
        rows = [
            f"    <Label value={quoteattr(name)} background={quoteattr(color)}/>\n"
            for name, color in zip(target.names, target.colors, strict=True)
        ]
        interface = f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <{tag} name="segment" toName="image">\n'
        (place / "interface.xml").write_text(f"{interface}{''.join(rows)}  </{tag}>\n</View>\n", "utf-8")
        self.url = f"{_LOCAL}{quote(target.root.name)}/" if options.url is None else options.url
        self.file = (place / "tasks.json").open("w", encoding="ascii")
        self.tasks = JsonList(self.file)

    @classmethod
    def needs(cls, options: ConvertOptions) -> dict[str, str]:
        return {"label_studio_sdk": "labelstudio"} if options.shape == "mask" else PACKAGES

    def encode(self, picture: Picture) -> dict[str, Any]:
        n, chosen = len(self.target.names), self.chosen
        size = {"original_width": picture.width, "original_height": picture.height, "image_rotation": 0}
        ends = {"from_name": "segment", "to_name": "image"}
        if chosen.shape == "mask":
            regions = find_regions(picture.labels, n, chosen.per == "component", chosen.min_area, chosen.fill_holes)
            values = [self._brush(region, picture.labels.shape) for region in regions]
        else:
            outlines = find_outlines(picture.labels, n, chosen)
            values = [self._polygon(o.value, one_ring(part), picture) for o in outlines for part in o.parts]
        kind = "brushlabels" if chosen.shape == "mask" else "polygonlabels"
        result = [
            {"id": f"segment{number}", "type": kind, **ends, **size, "value": value} for number, value in enumerate(values)
        ]
        prediction = {"model_version": f"picie {__version__}", "result": result}
        return {"data": {"image": self.url + quote(picture.photo)}, "predictions": [prediction]}

    def _brush(self, region: Region, shape: tuple[int, ...]) -> dict[str, Any]:
        from label_studio_sdk.converter import brush

        mask = np.zeros(shape, np.uint8)
        left, top, width, height = region.box
        mask[top : top + height, left : left + width] = region.mask() * np.uint8(255)
        return {"format": "rle", "rle": brush.mask2rle(mask), "brushlabels": [self.target.names[region.value]]}

    def _polygon(self, value: int, ring: np.ndarray, picture: Picture) -> dict[str, Any]:
        points = np.round(ring / (picture.width, picture.height) * 100, 6)
        return {"points": points.tolist(), "closed": True, "polygonlabels": [self.target.names[value]]}

    def write(self, encoded: dict[str, Any]) -> None:
        self.tasks.add(encoded)

    def finish(self) -> None:
        self.tasks.end()

    def close(self) -> None:
        self.file.close()
