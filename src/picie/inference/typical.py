"""The most typical places of each segment, and pictures of them: contact sheets.

Shapes: D feature dimension, K clusters, h w feature cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from picie.data.images import whole_size
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits

CROP_SIZE = 112  # pixels of a crop's side
_CROP_SHARE = 0.45  # share of the picture's short side that a crop shows
_PALE = (168, 168, 168)
_REDUCED_SIZE = 256  # short side of the pictures that crops are cut from
_CANDIDATES = 4  # candidates for each place that is shown
_LOOK = 8  # pixels a side of the thumbnails that places are compared by


@dataclass(frozen=True, order=True)
class Place:
    """The cell of a picture that is most typical of a segment.

    Attributes:
        score: the cosine of its feature and the centroid of its cluster, in [-1, 1].
        picture: number of the picture.
        row: row of the cell.
        column: column of the cell.
    """

    score: float
    picture: int
    row: int
    column: int


@torch.inference_mode()
def typical_cells(segmenter: Segmenter, directions: Tensor, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the (h, w) clusters and scores of cells, the cosines to their clusters' centroids.

    The logit is not a usable score: the logits of the parts of a split cluster are almost equal to
    the parent's.

    Args:
        segmenter: has the clusters.
        directions: (K, D) unit-norm centroids of its clusters.
        features: (D, h, w) of unit norm.
    """
    clusters = prototype_logits(features[None], *segmenter.classifier)[0].argmax(0)
    scores = prototype_logits(features[None], directions.to(features))[0].gather(0, clusters[None])[0]
    return clusters.cpu().numpy(), scores.cpu().numpy()


def best_places(picture: int, values: np.ndarray, scores: np.ndarray) -> Iterator[tuple[int, Place]]:
    """Yield each of the `values` (h, w) of a picture, and its place with the highest score."""
    flat, width = scores.ravel(), values.shape[1]
    for value in np.unique(values):
        best = int(np.where(values.ravel() == value, flat, -np.inf).argmax())
        yield int(value), Place(float(flat[best]), picture, best // width, best % width)


def varied(places: Sequence[Place], n: int, look: Callable[[Place], np.ndarray]) -> list[Place]:
    """Choose `n` typical places that look different, the most typical first.

    Consecutive frames of a video and repeated photos would otherwise fill a sheet with one thing.
    The first is the most typical one. Each further place is that of the 4 n most typical ones
    which looks least like those chosen before.

    Args:
        places: the places to choose from.
        n: the maximum number of places.
        look: returns the colours of a place, an array of one shape for all.
    """
    candidates = sorted(places, reverse=True)[: _CANDIDATES * n]
    if len(candidates) <= n:
        return candidates
    looks = np.stack([look(place).astype(float).ravel() for place in candidates])
    chosen, distance = [0], np.full(len(candidates), np.inf)
    while len(chosen) < n:
        distance = np.minimum(distance, np.abs(looks - looks[chosen[-1]]).mean(1))
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return [candidates[i] for i in sorted(chosen)]


def reduced(image: Image.Image) -> Image.Image:
    """Return an RGB picture of the size that `crop` needs."""
    height, width = whole_size(image.height, image.width, min(_REDUCED_SIZE, min(image.size)), max_long=8 * _REDUCED_SIZE)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def look_of(picture: Image.Image, place: Place, cells: tuple[int, int]) -> np.ndarray:
    """Return the (8, 8, 3) colours around a place, for `varied`; `cells` are (h, w)."""
    return np.asarray(picture.resize((_LOOK, _LOOK), Image.Resampling.BOX, box=_box(picture, place, cells)))


def crop(picture: Image.Image, values: np.ndarray, place: Place) -> Image.Image:
    """Return a square around a place, whose cell is framed; other segments are pale and grey.

    Args:
        picture: what `reduced` returned.
        values: (h, w) the value of each cell.
        place: the place.
    """
    h, w = values.shape
    mask = Image.fromarray(((values == values[place.row, place.column]) * 255).astype(np.uint8))
    mask = mask.resize(picture.size, Image.Resampling.NEAREST)
    grey = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, _PALE), 0.65)
    box = _box(picture, place, (h, w))
    scale = CROP_SIZE / (box[2] - box[0])
    shown = Image.composite(picture, grey, mask).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BILINEAR, box=box)
    reach = [max(4.0, scale * extent / 2) for extent in (picture.width / w, picture.height / h)]
    centre = ((place.column + 0.5) / w * picture.width, (place.row + 0.5) / h * picture.height)
    at = [(c - start) * scale for c, start in zip(centre, box[:2], strict=True)]
    draw = ImageDraw.Draw(shown)
    for grow, color in ((1, "black"), (0, "#ffd21f")):
        corners = (at[0] - reach[0] - grow, at[1] - reach[1] - grow, at[0] + reach[0] + grow, at[1] + reach[1] + grow)
        draw.rectangle(corners, outline=color)
    return shown


def _box(picture: Image.Image, place: Place, cells: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of the square around a place, inside the picture."""
    side = min(min(picture.size), max(8.0, _CROP_SHARE * min(picture.size)))
    centre = ((place.column + 0.5) / cells[1] * picture.width, (place.row + 0.5) / cells[0] * picture.height)
    left, top = (min(max(0.0, c - side / 2), end - side) for c, end in zip(centre, picture.size, strict=True))
    return left, top, left + side, top + side
