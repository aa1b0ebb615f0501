"""A contact sheet for each name of a map: where it is found most surely, how much of the pictures it is, its mean colour."""

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

_IMAGES = 120  # looked at
_MOST_CROPS, _CROPS_IN_ALL = 8, 480  # of one name, and of all of them: they are what the page weighs
_MOST_SHEETS = 256
_SIDE = 112  # pixels of a crop in the page
_PART = 0.45  # of the picture's short side that a crop shows
_PALE = (168, 168, 168)
_KEPT = 256  # short side of the pictures that crops are cut from


@dataclass(frozen=True)
class ContactSheet:
    """What one value of a predicted map looks like.

    Attributes:
        name: the value's name.
        color: its "#rrggbb" in maps.
        clusters: the clusters that have this value.
        share: its share of the pixels of the images looked at, in [0, 1].
        mean: "#rrggbb", the mean colour of these pixels; None where there are none.
        crops: its most typical places, at most one an image, best first.
    """

    name: str
    color: str
    clusters: list[int]
    share: float
    mean: str | None
    crops: list[Picture]


@dataclass
class _Found:
    """What the images tell of one value: pixels, their colours' sum, and (score, image, cell) of the best place of each."""

    color: np.ndarray = field(default_factory=lambda: np.zeros(3))
    area: float = 0.0
    places: list[tuple[float, int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """An image looked at: its name, picture (reduced), and (h, w) values of its cells."""

    name: str
    picture: Image.Image
    values: np.ndarray


def gather_sheets(subject: Subject) -> tuple[list[ContactSheet], int]:
    """The sheets of all values, largest share first, and the number of images that they were made from."""
    if subject.segmenter is None or subject.images is None:
        return [], 0
    segmenter, directions = subject.segmenter, F.normalize(centroids_in_use(subject.state), dim=1)
    order = permutation(len(subject.images), subject.config.seed, "report sheets")[:_IMAGES]
    found = [_Found() for _ in segmenter.names]
    seen: list[_Seen] = []
    for index, image in readable(subject.images, order):
        values, scores = _cells(segmenter, directions, image)
        _add(found, len(seen), image, values, scores)
        seen.append(_Seen(subject.images.name(index), _reduced(image), values))
    if not seen:
        subject.notes.append("No crops: none of the training images can be read.")
        return [], 0
    ranked = sorted(range(len(found)), key=lambda value: -found[value].area)[:_MOST_SHEETS]
    most = max(2, min(_MOST_CROPS, _CROPS_IN_ALL // len(ranked)))
    return [_sheet(segmenter, value, found[value], seen, most) for value in ranked], len(seen)


def _sheet(segmenter: Segmenter, value: int, found: _Found, seen: list[_Seen], most: int) -> ContactSheet:
    name, places = segmenter.names[value], sorted(found.places, reverse=True)[:most]
    return ContactSheet(
        name,
        rgb_to_hex(segmenter.colors[value]),
        [int(i) for i in np.flatnonzero(segmenter.value_of_cluster == value)],
        found.area / len(seen),
        _hex(found.color / found.area) if found.area else None,
        [_crop(seen[index], value, y, x, name) for _, index, y, x in places],
    )


@torch.inference_mode()
def _cells(segmenter: Segmenter, directions: Tensor, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) value and score of each feature cell; the score is the cosine to the centroid of the cell's cluster.

    The logit would not do: those of the parts of a split cluster are nearly their parent's.

    Args:
        segmenter: what predicts.
        directions: (K, D) unit-norm centroids of its clusters.
        image: an RGB picture.
    """
    features = segmenter.features(segmenter.to_pixels(image))
    clusters = prototype_logits(features, *segmenter.classifier)[0].argmax(0)
    scores = prototype_logits(features, directions)[0].gather(0, clusters[None])[0]
    return segmenter.values(clusters.cpu().numpy()), scores.cpu().numpy()


def _add(found: list[_Found], index: int, image: Image.Image, values: np.ndarray, scores: np.ndarray) -> None:
    """Take down what image number `index` shows; each image counts as much as any other, whatever its size."""
    h, w = values.shape
    colors = np.asarray(image.resize((w, h), Image.Resampling.BOX)).reshape(-1, 3).astype(float)  # the mean of each cell
    flat = values.ravel()
    for value in np.unique(flat):
        inside = flat == value
        best = int(np.where(inside, scores.ravel(), -np.inf).argmax())
        entry = found[value]
        entry.area += inside.mean()
        entry.color += colors[inside].sum(0) / len(flat)
        entry.places.append((float(scores.ravel()[best]), index, best // w, best % w))


def _reduced(image: Image.Image) -> Image.Image:
    height, width = whole_size(image.height, image.width, min(_KEPT, min(image.size)), max_long=8 * _KEPT)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _crop(seen: _Seen, value: int, y: int, x: int, name: str) -> Picture:
    """A square about cell (y, x): the pixels of `value` as they are, others pale and grey, and the cell framed."""
    picture, (h, w) = seen.picture, seen.values.shape
    mask = Image.fromarray(((seen.values == value) * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    grey = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, _PALE), 0.65)
    paled = Image.composite(picture, grey, mask)
    side = min(min(picture.size), max(8.0, _PART * min(picture.size)))
    centre = ((x + 0.5) / w * picture.width, (y + 0.5) / h * picture.height)
    left, top = (min(max(0.0, c - side / 2), end - side) for c, end in zip(centre, picture.size, strict=True))
    crop = paled.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    scale = _SIDE / side
    reach = [max(4.0, scale * extent / 2) for extent in (picture.width / w, picture.height / h)]
    at = [(c - start) * scale for c, start in zip(centre, (left, top), strict=True)]
    draw = ImageDraw.Draw(crop)
    for grow, color in ((1, "black"), (0, "#ffd21f")):
        corners = (at[0] - reach[0] - grow, at[1] - reach[1] - grow, at[0] + reach[0] + grow, at[1] + reach[1] + grow)
        draw.rectangle(corners, outline=color)
    return Picture(seen.name, jpeg_uri(crop), f"{name} in {seen.name}")


def _hex(color: np.ndarray) -> str:
    red, green, blue = (int(c) for c in color.round())
    return rgb_to_hex((red, green, blue))
