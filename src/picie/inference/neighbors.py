"""Which pixels of a folder are most like one pixel: exact nearest neighbours of its feature (the notebook's query pixel)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from picie.data.images import find_images, open_image, open_or_error
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError
from picie.inference.segmenter import Segmenter
from picie.runtime.output_paths import check_file
from picie.runtime.progress import Progress, log

_SIDE, _COLUMNS, _GAP, _FONT_SIZE, _RADIUS = 200, 6, 6, 14, 9  # of the picture, in pixels
_PART = 0.5  # of an image's short side, shown around a pixel


@dataclass(frozen=True)
class Neighbor:
    """A pixel and how much it is like the query.

    Attributes:
        path: the image.
        x: column in pixels of the upright image: the centre of the feature cell.
        y: row.
        similarity: cosine of the two features, in [-1, 1].
        name: of the segment that it lies in.
    """

    path: str
    x: int
    y: int
    similarity: float
    name: str


def neighbors(
    run: str | Path,
    image: str | Path,
    x: int,
    y: int,
    folder: str | Path,
    k: int = 10,
    per_image: int = 1,
    out: str | Path | None = None,
    device: str = "auto",
) -> list[Neighbor]:
    """The `k` pixels of the images in `folder` that are most like pixel (`x`, `y`) of `image`, the most similar first.

    Every cell of every image is compared; nothing is sampled. The query's own image is passed over.

    Args:
        run: a run's folder.
        image: the query's image.
        x: column of the query in pixels of the upright image, from 0.
        y: row.
        folder: images, searched recursively.
        k: how many.
        per_image: most of one image.
        out: a .png file for a picture of query and neighbours; beside it a .json file with the same name is written.
        device: where to compute.

    Raises:
        InputError: no such file or pixel, a `k` or `per_image` below 1, or no image to compare with.
    """
    folder, image = Path(folder), Path(image)
    if k < 1 or per_image < 1:
        raise InputError(f"-k {k}, --per-image {per_image}: give numbers of at least 1")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise InputError(f"--out {out}: give a file that ends in .png; a .json file is written beside it")
    check_file("--out", None if out is None else Path(out))
    if not folder.is_dir():
        raise InputError(f"--in {folder}: no such folder; give a folder of images")
    segmenter = Segmenter.load(run, device)
    picture = open_image(image)
    feature = feature_at(segmenter, picture, x, y)
    paths = [path for path in find_images(folder) if path.resolve() != image.resolve()]
    with Progress() as bars, bars.bar("compare", len(paths)) as advance:
        found = search(segmenter, feature, _features(segmenter, paths, advance), k, per_image)
    if not found:
        raise InputError(f"--in {folder}: holds no image (but the query) that can be read; give another folder")
    if len(found) < k:
        log.warning("%d pixels, not %d: there are no more images; raise --per-image to take several of one", len(found), k)
    if out is not None:
        name = segmenter.names[int(segmenter.predict(picture)[y, x])]
        _write(Path(out), Neighbor(str(image), x, y, 1.0, name), found)
    return found


def feature_at(segmenter: Segmenter, picture: Image.Image, x: int, y: int) -> Tensor:
    """(D,) unit-norm feature of the cell that pixel (`x`, `y`) of an upright RGB `picture` lies in. Raises `InputError`."""
    _check_inside(x, y, picture.size)
    return feature_of(segmenter.features(segmenter.to_pixels(picture))[0], picture.size, x, y)


def feature_of(z: Tensor, size: tuple[int, int], x: int, y: int) -> Tensor:
    """(D,) what features `z` (D, h, w) of a picture of `size` (width, height) hold for its pixel. Raises `InputError`."""
    _check_inside(x, y, size)
    return z[:, y * z.shape[1] // size[1], x * z.shape[2] // size[0]]


def _check_inside(x: int, y: int, size: tuple[int, int]) -> None:
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        raise InputError(f"pixel ({x}, {y}) lies outside the picture; it has {size[0]} x {size[1]} pixels")


Features = tuple[str, tuple[int, int], Tensor]
"""An image's path, its (H, W) in pixels, and its unit-norm features (D, h, w)."""


def search(segmenter: Segmenter, feature: Tensor, images: Iterable[Features], k: int, per_image: int) -> list[Neighbor]:
    """The `k` cells of `images` with the largest cosine to `feature` (D,), at most `per_image` of one image, best first."""
    best: list[Neighbor] = []
    weight, bias = segmenter.classifier
    for path, (height, width), z in images:
        points = z.flatten(1)  # D, cells
        values, cells = (feature @ points).topk(min(per_image, points.shape[1]))
        clusters = (weight @ points[:, cells] + bias[:, None]).argmax(0)
        names = [segmenter.names[value] for value in segmenter.values(clusters.cpu().numpy())]
        for value, cell, name in zip(values.tolist(), cells.tolist(), names, strict=True):
            row, column = divmod(cell, z.shape[2])
            x, y = int((column + 0.5) * width / z.shape[2]), int((row + 0.5) * height / z.shape[1])
            best.append(Neighbor(path, x, y, value, name))
        best = sorted(best, key=lambda n: -n.similarity)[:k]  # stable: of equals the first comes first
    return best


def _features(segmenter: Segmenter, paths: Sequence[Path], advance: Callable[[int], None]) -> Iterator[Features]:
    """Features of the images that can be read; the others are warned of."""
    for path, picture in zip(paths, read_ahead(open_or_error, paths, ahead=4), strict=True):
        advance(1)
        if isinstance(picture, UnreadableImageError):
            log.warning("skipped: %s", picture)
        else:
            yield str(path), (picture.height, picture.width), segmenter.features(segmenter.to_pixels(picture))[0]


def _write(out: Path, query: Neighbor, found: Sequence[Neighbor]) -> None:
    """The picture of query and neighbours, and the same as JSON."""
    content = {"query": _plain(query), "neighbors": [_plain(neighbor) for neighbor in found]}
    out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    shown = [query, *found]
    titles = ["query", *(f"{n.similarity:.3f} {n.name}" for n in found)]
    columns = min(_COLUMNS, len(shown))
    font = ImageFont.load_default(_FONT_SIZE)
    height = _SIDE + _FONT_SIZE + 3 * _GAP
    canvas = Image.new("RGB", (columns * (_SIDE + _GAP) + _GAP, -(-len(shown) // columns) * height + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for position, (neighbor, title) in enumerate(zip(shown, titles, strict=True)):
        left, top = _GAP + position % columns * (_SIDE + _GAP), _GAP + position // columns * height
        while len(title) > 4 and font.getlength(title) > _SIDE:
            title = title[:-2] + "…"
        draw.text((left, top), title, fill="black", font=font)
        canvas.paste(surroundings(open_image(Path(neighbor.path)), neighbor.x, neighbor.y), (left, top + _FONT_SIZE + _GAP))
    canvas.save(out)


def _plain(neighbor: Neighbor) -> dict[str, Any]:
    return vars(neighbor) | {"similarity": round(neighbor.similarity, 6)}


def surroundings(picture: Image.Image, x: int, y: int) -> Image.Image:
    """The square part of an RGB `picture` around its pixel (`x`, `y`), with a ring about the pixel."""
    side = max(1, round(_PART * min(picture.size)))
    left = min(max(x - side // 2, 0), picture.width - side)
    top = min(max(y - side // 2, 0), picture.height - side)
    part = picture.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    column, row = (x + 0.5 - left) * _SIDE / side, (y + 0.5 - top) * _SIDE / side
    draw = ImageDraw.Draw(part)
    for radius, color in ((_RADIUS + 2, "black"), (_RADIUS, "white")):
        draw.ellipse((column - radius, row - radius, column + radius, row + radius), outline=color, width=2)
    return part
