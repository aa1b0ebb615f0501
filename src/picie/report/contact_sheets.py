"""Contact sheets: the most typical places of each value of a label map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch.nn import functional as F

from picie.data.loading import readable
from picie.display.colors import rgb_to_hex
from picie.inference.segmenter import Segmenter
from picie.inference.typical import Place, best_places, crop, look_of, reduced, typical_cells, varied
from picie.report.examples import Picture
from picie.report.pictures import jpeg_uri
from picie.report.subject import Subject
from picie.runtime.checkpoint import centroids_in_use
from picie.runtime.rng import permutation

_IMAGES = 120  # maximum number of images that the sheets are made from
_MAX_CROPS, _MAX_TOTAL_CROPS = 8, 480  # per value, and on the whole page, to limit its size
_MAX_SHEETS = 256


@dataclass(frozen=True)
class ContactSheet:
    """What one value of a predicted label map looks like.

    Attributes:
        name: the value's name.
        color: its "#rrggbb" in label maps.
        clusters: the clusters that have this value.
        share: its share of the pixels of the sampled images, in [0, 1].
        mean: "#rrggbb", the mean colour of these pixels; None if there are none.
        crops: places that are typical of it and look different, at most one per image, the most
            typical first.
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
        places: the best cell of each image.
    """

    color: np.ndarray = field(default_factory=lambda: np.zeros(3))
    area: float = 0.0
    places: list[Place] = field(default_factory=list)


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
        clusters, scores = typical_cells(segmenter, directions, segmenter.encode(segmenter.to_pixels(image))[0])
        values = segmenter.values(clusters)
        _add(stats, len(sampled), image, values, scores)
        sampled.append(_SampledImage(subject.images.name(index), reduced(image), values))
    if not sampled:
        subject.notes.append("No crops: none of the training images can be read.")
        return [], 0
    ranked = sorted(range(len(stats)), key=lambda value: -stats[value].area)[:_MAX_SHEETS]
    max_crops = max(2, min(_MAX_CROPS, _MAX_TOTAL_CROPS // len(ranked)))
    return [_sheet(segmenter, value, stats[value], sampled, max_crops) for value in ranked], len(sampled)


def _sheet(segmenter: Segmenter, value: int, stats: _ValueStats, sampled: list[_SampledImage], max_crops: int) -> ContactSheet:
    def look(place: Place) -> np.ndarray:
        image = sampled[place.picture]
        return look_of(image.picture, place, image.values.shape)

    name = segmenter.names[value]
    return ContactSheet(
        name,
        rgb_to_hex(segmenter.colors[value]),
        [int(i) for i in np.flatnonzero(segmenter.value_of_cluster == value)],
        stats.area / len(sampled),
        _hex(stats.color / stats.area) if stats.area else None,
        [_crop(sampled[place.picture], place, name) for place in varied(stats.places, max_crops, look)],
    )


def _add(stats: list[_ValueStats], index: int, image: Image.Image, values: np.ndarray, scores: np.ndarray) -> None:
    """Add image number `index` to the statistics.

    Every image has the same weight, whatever its size.
    """
    h, w = values.shape
    # mean colour of each cell
    colors = np.asarray(image.resize((w, h), Image.Resampling.BOX)).reshape(-1, 3).astype(float)
    flat = values.ravel()
    for value, place in best_places(index, values, scores):
        inside = flat == value
        entry = stats[value]
        entry.area += inside.mean()
        entry.color += colors[inside].sum(0) / len(flat)
        entry.places.append(place)


def _crop(image: _SampledImage, place: Place, name: str) -> Picture:
    return Picture(image.name, jpeg_uri(crop(image.picture, image.values, place)), f"{name} in {image.name}")


def _hex(color: np.ndarray) -> str:
    red, green, blue = (int(c) for c in color.round())
    return rgb_to_hex((red, green, blue))
