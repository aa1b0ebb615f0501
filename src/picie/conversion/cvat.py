"""CVAT for images 1.1: annotations.xml with masks or polygons, and labels.json for the task."""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

from picie.conversion.base import MASKS, ConvertOptions, Format, Picture, Target
from picie.conversion.polygons import PACKAGES, find_outlines, one_ring
from picie.conversion.regions import Region, find_regions, run_lengths


class Cvat(Format):
    """CVAT for images 1.1: a folder of annotations.xml (masks or polygons) and labels.json.

    Pictures are named by their path relative to the folder of the photos.
    """

    options = MASKS

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        super().__init__(target, options, place)
        self.file = (place / "annotations.xml").open("w", encoding="utf-8")
        pairs = list(zip(target.names, target.colors, strict=True))
        labels = [{"name": name, "color": color, "attributes": []} for name, color in pairs]
        (place / "labels.json").write_text(json.dumps(labels, indent=2) + "\n", "ascii")
        listed = "".join(f"<label><name>{_text(name)}</name><color>{color}</color></label>" for name, color in pairs)
        self.file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
            f"<meta><task><size>{target.n_images}</size><mode>annotation</mode><labels>{listed}</labels></task></meta>\n"
        )
        self.count = 0

    @classmethod
    def needs(cls, options: ConvertOptions) -> dict[str, str]:
        return PACKAGES if options.shape == "polygon" else {}

    def encode(self, picture: Picture) -> tuple[str, str]:
        picture.photo.encode()  # raises if the name is not valid Unicode
        n, chosen, shapes = len(self.target.names), self.chosen, []
        if chosen.shape == "mask":
            regions = find_regions(picture.labels, n, chosen.per == "component", chosen.min_area, chosen.fill_holes)
            shapes = [f"<mask {self._common(region.value)} {_mask(region)}></mask>\n" for region in regions]
        else:
            for group, outline in enumerate(find_outlines(picture.labels, n, chosen), 1):
                together = f' group_id="{group}"' if len(outline.parts) > 1 else ""
                for part in outline.parts:
                    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in one_ring(part))
                    shapes.append(f'<polygon {self._common(outline.value)}{together} points="{points}"></polygon>\n')
        head = f'name={_attribute(picture.photo)} width="{picture.width}" height="{picture.height}"'
        return head, "".join(shapes)

    def _common(self, value: int) -> str:
        return f'label={_attribute(self.target.names[value])} source="auto" occluded="0" z_order="0"'

    def write(self, encoded: tuple[str, str]) -> None:
        head, shapes = encoded
        self.file.write(f'<image id="{self.count}" {head}>\n{shapes}</image>\n')
        self.count += 1

    def finish(self) -> None:
        self.file.write("</annotations>\n")

    def close(self) -> None:
        self.file.close()


def _mask(region: Region) -> str:
    """The attributes of a mask: run lengths within its box, which begin with pixels outside."""
    left, top, width, height = region.box
    lengths = ", ".join(map(str, run_lengths(region.mask(), 0, 0, (height, width))))
    return f'rle="{lengths}" left="{left}" top="{top}" width="{width}" height="{height}"'


def _attribute(text: str) -> str:
    return quoteattr(_without_controls(text))


def _text(text: str) -> str:
    return _attribute(text)[1:-1]


def _without_controls(text: str) -> str:
    """Replace characters that XML cannot hold."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
