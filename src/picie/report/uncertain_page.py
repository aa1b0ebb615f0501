"""The page of `picie uncertain`: each picture, its segments, and where they are unsure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch
from PIL import Image, ImageDraw

from picie.data.images import open_image
from picie.display.colors import rgb_to_hex
from picie.display.overlays import confidence_image
from picie.inference.outputs import margin_map
from picie.inference.segmenter import Segmenter
from picie.inference.uncertain import UncertainPicture
from picie.methods.losses import prototype_logits
from picie.report.pictures import fitted, jpeg_uri
from picie.runtime.atomic_write import write_atomically
from picie.runtime.output_paths import check_file
from picie.version import __version__

_LONGEST = 480  # pixels of a picture's long side on the page


@dataclass(frozen=True)
class _Card:
    title: str
    caption: str
    tiles: list[tuple[str, str]]


def write_page(run: str | Path, pictures: Sequence[UncertainPicture], out: str | Path, device: str = "auto") -> Path:
    """Write one HTML page of the pictures that `picie.inference.uncertain` chose.

    The page needs no other file, no network and no script.

    Args:
        run: the run's folder or checkpoint file.
        pictures: the pictures, in their order.
        out: the file to write.
        device: where to compute.

    Returns:
        `out`.

    Raises:
        InputError: the run does not exist, `out` cannot be a file, or a picture can no longer be
            read.
    """
    check_file("--out", Path(out))
    segmenter = Segmenter.load(run, device)
    loader = jinja2.PackageLoader("picie.report")
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = templates.get_template("uncertain.html").render(
        run=Path(run).absolute().name,
        cards=list(_cards(segmenter, pictures)),
        legend=[(name, rgb_to_hex(color)) for name, color in zip(segmenter.names, segmenter.colors, strict=True)],
        version=__version__,
    )
    # "replace", because file names may not be valid Unicode
    write_atomically(Path(out), lambda file: file.write(page.encode("utf-8", "replace")))
    return Path(out)


@torch.inference_mode()
def _cards(segmenter: Segmenter, pictures: Sequence[UncertainPicture]) -> Iterator[_Card]:
    for number, one in enumerate(pictures, 1):
        picture = open_image(one.path, segmenter.reading)
        z = segmenter.encode(segmenter.to_pixels(picture))
        small = picture.resize(fitted(picture.width, picture.height, _LONGEST), Image.Resampling.LANCZOS)
        labels = segmenter.values(segmenter.clusters_of(z, (small.height, small.width))[0])
        margins = margin_map(prototype_logits(z, *segmenter.classifier), (small.height, small.width), segmenter.mixture)
        tiles = [
            (jpeg_uri(_marked(small, one.x / picture.width, one.y / picture.height)), "picture, with the least sure place"),
            (jpeg_uri(segmenter.overlay(small, labels)), "segments"),
            (jpeg_uri(confidence_image(margins)), "confidence: light is sure"),
        ]
        between = ["undecided most often between " + " and ".join(one.between)] if len(one.between) > 1 else []
        caption = [f"uncertainty {one.uncertainty:.2f}", *between, f"least sure at ({one.x}, {one.y})"]
        yield _Card(f"{number}. {one.path}", "; ".join(caption), tiles)


def _marked(image: Image.Image, x: float, y: float) -> Image.Image:
    """Copy an RGB picture and draw a ring around (x, y), in fractions of its size."""
    marked = image.copy()
    draw, radius = ImageDraw.Draw(marked), max(4.0, min(image.size) / 16)
    x, y = x * image.width, y * image.height
    for extra, color in ((2, "black"), (0, "white")):
        box = (x - radius - extra, y - radius - extra, x + radius + extra, y + radius + extra)
        draw.ellipse(box, outline=color, width=2 + extra // 2)
    return marked
