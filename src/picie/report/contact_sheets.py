"""Contact sheets: the most typical places of each value of a label map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from picie.data.images import whole_size
from picie.data.loading import readable
from picie.display.colors import rgb_to_hex
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits
from picie.report.examples import Picture
from picie.report.pictures import jpeg_uri
from picie.report.subject import Subject
from picie.runtime.checkpoint import centroids_in_use
from picie.runtime.rng import permutation

_IMAGES = 120  # maximum number of images that the sheets are made from
_MAX_CROPS, _MAX_TOTAL_CROPS = 8, 480  # per value, and on the whole page, to limit its size
_MAX_SHEETS = 256
_CROP_SIZE = 112  # pixels of a crop's side on the page
_CROP_SHARE = 0.45  # share of the picture's short side that a crop shows
_PALE = (168, 168, 168)
_REDUCED_SIZE = 256  # short side of the pictures that crops are cut from


@dataclass(frozen=True)
class ContactSheet:
    """What one value of a predicted label map looks like.

    Attributes:
        name: the value's name.
        color: its "#rrggbb" in label maps.
        clusters: the clusters that have this value.
        share: its share of the pixels of the sampled images, in [0, 1].
        mean: "#rrggbb", the mean colour of these pixels; None if there are none.
        crops: its most typical places, at most one per image, best first.
    """

    name: str
    color: str
    clusters: list[int]
    share: float
    mean: str | None
    crops: list[Picture]


@dataclass
class _ValueStats:
    """Statistics of one value.

    Attributes:
        color: (3,) sum over the images of the mean colour of the value's pixels, weighted by their
            share.
        area: sum over the images of the value's share of the cells.
        places: (score, image, row, column) of the best cell of each image.
    """

    color: np.ndarray = field(default_factory=lambda: np.zeros(3))
    area: float = 0.0
    places: list[tuple[float, int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class _SampledImage:
    """A sampled image: its name, its reduced picture, and the (h, w) values of its cells."""

    name: str
    picture: Image.Image
    values: np.ndarray


def gather_sheets(subject: Subject) -> tuple[list[ContactSheet], int]:
    """The sheets of all values, largest share first, and the number of images sampled for them."""
    if subject.segmenter is None or subject.images is None:
        return [], 0
    segmenter, directions = subject.segmenter, F.normalize(centroids_in_use(subject.state), dim=1)
    order = permutation(len(subject.images), subject.config.seed, "report sheets")[:_IMAGES]
    stats = [_ValueStats() for _ in segmenter.names]
    sampled: list[_SampledImage] = []
    for index, image in readable(subject.images, order):
        values, scores = _cells(segmenter, directions, image)
        _add(stats, len(sampled), image, values, scores)
        sampled.append(_SampledImage(subject.images.name(index), _reduced(image), values))
    if not sampled:
        subject.notes.append("No crops: none of the training images can be read.")
        return [], 0
    ranked = sorted(range(len(stats)), key=lambda value: -stats[value].area)[:_MAX_SHEETS]
    max_crops = max(2, min(_MAX_CROPS, _MAX_TOTAL_CROPS // len(ranked)))
    return [_sheet(segmenter, value, stats[value], sampled, max_crops) for value in ranked], len(sampled)


def _sheet(segmenter: Segmenter, value: int, stats: _ValueStats, sampled: list[_SampledImage], max_crops: int) -> ContactSheet:
    name, places = segmenter.names[value], sorted(stats.places, reverse=True)[:max_crops]
    return ContactSheet(
        name,
        rgb_to_hex(segmenter.colors[value]),
        [int(i) for i in np.flatnonzero(segmenter.value_of_cluster == value)],
        stats.area / len(sampled),
        _hex(stats.color / stats.area) if stats.area else None,
        [_crop(sampled[index], value, y, x, name) for _, index, y, x in places],
    )


@torch.inference_mode()
def _cells(segmenter: Segmenter, directions: Tensor, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The (h, w) value and score of each feature cell.

    The score is the cosine to the centroid of the cell's cluster.

    The logit is not a usable score: the logits of the parts of a split cluster are almost equal to
    the parent's.

    Args:
        segmenter: computes the features and the clusters.
        directions: (K, D) unit-norm centroids of its clusters.
        image: an RGB picture.
    """
    features = segmenter.encode(segmenter.to_pixels(image))
    clusters = prototype_logits(features, *segmenter.classifier)[0].argmax(0)
    scores = prototype_logits(features, directions)[0].gather(0, clusters[None])[0]
    return segmenter.values(clusters.cpu().numpy()), scores.cpu().numpy()


def _add(stats: list[_ValueStats], index: int, image: Image.Image, values: np.ndarray, scores: np.ndarray) -> None:
    """Add image number `index` to the statistics.

    Every image has the same weight, whatever its size.
    """
    h, w = values.shape
    # mean colour of each cell
    colors = np.asarray(image.resize((w, h), Image.Resampling.BOX)).reshape(-1, 3).astype(float)
    flat = values.ravel()
    for value in np.unique(flat):
        inside = flat == value
        best = int(np.where(inside, scores.ravel(), -np.inf).argmax())
        entry = stats[value]
        entry.area += inside.mean()
        entry.color += colors[inside].sum(0) / len(flat)
        entry.places.append((float(scores.ravel()[best]), index, best // w, best % w))


def _reduced(image: Image.Image) -> Image.Image:
    height, width = whole_size(image.height, image.width, min(_REDUCED_SIZE, min(image.size)), max_long=8 * _REDUCED_SIZE)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _crop(sampled: _SampledImage, value: int, y: int, x: int, name: str) -> Picture:
    """A square around cell (y, x), framed; pixels of other values are pale and grey."""
    picture, (h, w) = sampled.picture, sampled.values.shape
    mask = Image.fromarray(((sampled.values == value) * 255).astype(np.uint8))
    mask = mask.resize(picture.size, Image.Resampling.NEAREST)
    grey = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, _PALE), 0.65)
    paled = Image.composite(picture, grey, mask)
    side = min(min(picture.size), max(8.0, _CROP_SHARE * min(picture.size)))
    centre = ((x + 0.5) / w * picture.width, (y + 0.5) / h * picture.height)
    left, top = (min(max(0.0, c - side / 2), end - side) for c, end in zip(centre, picture.size, strict=True))
    crop = paled.resize((_CROP_SIZE, _CROP_SIZE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    scale = _CROP_SIZE / side
    reach = [max(4.0, scale * extent / 2) for extent in (picture.width / w, picture.height / h)]
    at = [(c - start) * scale for c, start in zip(centre, (left, top), strict=True)]
    draw = ImageDraw.Draw(crop)
    for grow, color in ((1, "black"), (0, "#ffd21f")):
        corners = (at[0] - reach[0] - grow, at[1] - reach[1] - grow, at[0] + reach[0] + grow, at[1] + reach[1] + grow)
        draw.rectangle(corners, outline=color)
    return Picture(sampled.name, jpeg_uri(crop), f"{name} in {sampled.name}")


def _hex(color: np.ndarray) -> str:
    red, green, blue = (int(c) for c in color.round())
    return rgb_to_hex((red, green, blue))
