"""`picie neighbors`: exact nearest-neighbour search for the pixels most similar to a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from picie.data.images import decoding_bytes, open_image, open_or_error
from picie.data.loading import read_ahead
from picie.data.search import search_photos
from picie.errors import InputError, UnreadableImageError
from picie.inference.segmenter import Segmenter
from picie.runtime.atomic_write import write_atomically
from picie.runtime.output_paths import check_file, write_json
from picie.runtime.progress import Progress, log

_SIDE, _COLUMNS, _GAP, _FONT_SIZE, _RADIUS = 200, 6, 6, 14, 9  # layout of the picture, in pixels
_CROP_SHARE = 0.5  # share of an image's short side that is shown around a pixel


@dataclass(frozen=True)
class Neighbor:
    """A pixel and its similarity to the query.

    Attributes:
        path: the image.
        x: column of the feature cell's centre, in pixels of the upright image.
        y: row of the feature cell's centre.
        similarity: cosine similarity of the two features, in [-1, 1].
        name: the segment that the pixel belongs to.
    """

    path: str
    x: int
    y: int
    similarity: float
    name: str


@dataclass(frozen=True)
class Query:
    """The pixel to search for, and the images to search.

    Attributes:
        image: the image that the query pixel lies in.
        x: column of the query pixel in the upright image, from 0.
        y: row of the query pixel.
        folder: the images to search, found recursively. The query's own image is left out.
        k: the number of neighbours.
        per_image: the maximum number of neighbours in one image.
    """

    image: Path
    x: int
    y: int
    folder: Path
    k: int = 10
    per_image: int = 1


def neighbors(run: str | Path, query: Query, out: Path | None = None, device: str = "auto") -> list[Neighbor]:
    """Find the pixels that are most similar to a query pixel.

    Every feature cell of every image is compared; nothing is sampled.

    Args:
        run: a run's folder.
        query: the pixel, the images to search and the number of results.
        out: a .png file for a picture of the query and its neighbours. A .json file of the same
            name is written beside it.
        device: where to compute.

    Returns:
        At most `query.k` neighbours, the most similar first.

    Raises:
        InputError: a file, folder or pixel does not exist, `k` or `per_image` is below 1, or there
            is no image to search.
    """
    _check(query, out)
    segmenter = Segmenter.load(run, device)
    picture = open_image(query.image, segmenter.reading)
    feature = feature_at(segmenter, picture, query.x, query.y)
    paths = [path for path in search_photos(query.folder).images if path.resolve() != query.image.resolve()]
    with Progress() as bars, bars.bar("compare", len(paths)) as advance:
        results = search(segmenter, feature, _features(segmenter, paths, advance), query.k, query.per_image)
    if not results:
        raise InputError(f"--in {query.folder}: has no readable image except the query's; give another folder")
    if len(results) < query.k:
        log.warning(
            "found %d pixels, not %d: there are no more images; raise --per-image to allow several per image",
            len(results),
            query.k,
        )
    if out is not None:
        name = segmenter.names[int(segmenter.predict(picture)[query.y, query.x])]
        _write(out, Neighbor(str(query.image), query.x, query.y, 1.0, name), results)
    return results


def _check(query: Query, out: Path | None) -> None:
    """Raise `InputError` for what can be checked without opening the run."""
    if query.k < 1 or query.per_image < 1:
        raise InputError(f"-k {query.k}, --per-image {query.per_image}: both must be at least 1")
    if out is not None and out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: give a file name that ends in .png; a .json file is written beside it")
    check_file("--out", out)
    if not query.folder.is_dir():
        raise InputError(f"--in {query.folder}: no such folder; give a folder of images")


def feature_at(segmenter: Segmenter, picture: Image.Image, x: int, y: int) -> Tensor:
    """Return the (D,) unit-norm feature at pixel (`x`, `y`) of an upright RGB `picture`.

    Raises `InputError` outside the picture.
    """
    check_inside(x, y, picture.size)
    return feature_of(segmenter.encode(segmenter.to_pixels(picture))[0], picture.size, x, y)


def feature_of(z: Tensor, size: tuple[int, int], x: int, y: int, where: str = "") -> Tensor:
    """Return the unit-norm feature (D,) at pixel (`x`, `y`) of a picture of `size` (W, H).

    It is interpolated between the centres of the cells of `z` (D, h, w), the features of the
    picture, as logits are when they are enlarged.

    Raises `InputError`, which begins with `where`, outside the picture.
    """
    check_inside(x, y, size, where)
    place = torch.tensor([2 * (x + 0.5) / size[0] - 1, 2 * (y + 0.5) / size[1] - 1], device=z.device)
    sampled = F.grid_sample(z[None], place.view(1, 1, 1, 2), padding_mode="border", align_corners=False)
    return F.normalize(sampled.flatten(), dim=0)


def check_inside(x: int, y: int, size: tuple[int, int], where: str = "") -> None:
    """Raise `InputError`, which begins with `where`, for a pixel outside a picture of `size`."""
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        raise InputError(f"{where}pixel ({x}, {y}) lies outside the picture, which has {size[0]} x {size[1]} pixels")


Features = tuple[str, tuple[int, int], Tensor]
"""An image's path, its (H, W) in pixels, and its unit-norm features (D, h, w)."""


def search(segmenter: Segmenter, feature: Tensor, images: Iterable[Features], k: int, per_image: int) -> list[Neighbor]:
    """Return the `k` cells of `images` that are most similar to `feature` (D,), best first.

    Similarity is the cosine.

    At most `per_image` of them are in the same image.
    """
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
        # A stable sort keeps ties in the order of the images.
        best = sorted(best, key=lambda n: -n.similarity)[:k]
    return best


def _features(segmenter: Segmenter, paths: Sequence[Path], advance: Callable[[int], None]) -> Iterator[Features]:
    """Yield the features of each readable image; log a warning for the others."""
    reading = segmenter.reading
    read = read_ahead(lambda path: (path, open_or_error(path, reading)), paths, ahead=4, cost=decoding_bytes)
    for path, picture in read:
        advance(1)
        if isinstance(picture, UnreadableImageError):
            log.warning("skipped: %s", picture)
        else:
            yield str(path), (picture.height, picture.width), segmenter.encode(segmenter.to_pixels(picture))[0]
        del picture  # before the next one is read


def _write(out: Path, query: Neighbor, results: Sequence[Neighbor]) -> None:
    """Write the picture of the query and its neighbours, and the same as JSON."""
    content = {"query": _plain(query), "neighbors": [_plain(neighbor) for neighbor in results]}
    write_json(out.with_suffix(".json"), content)
    shown = [query, *results]
    titles = ["query", *(f"{n.similarity:.3f} {n.name}" for n in results)]
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
    write_atomically(out, lambda file: canvas.save(file, "PNG"))


def _plain(neighbor: Neighbor) -> dict[str, Any]:
    return vars(neighbor) | {"similarity": round(neighbor.similarity, 6)}


def surroundings(picture: Image.Image, x: int, y: int) -> Image.Image:
    """Crop a square around pixel (`x`, `y`) of an RGB `picture`, and mark the pixel by a ring."""
    side = max(1, round(_CROP_SHARE * min(picture.size)))
    left = min(max(x - side // 2, 0), picture.width - side)
    top = min(max(y - side // 2, 0), picture.height - side)
    part = picture.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    column, row = (x + 0.5 - left) * _SIDE / side, (y + 0.5 - top) * _SIDE / side
    draw = ImageDraw.Draw(part)
    for radius, color in ((_RADIUS + 2, "black"), (_RADIUS, "white")):
        draw.ellipse((column - radius, row - radius, column + radius, row + radius), outline=color, width=2)
    return part
