"""Example images: image | prediction | overlay | confidence | label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from picie.data.base import Dataset
from picie.data.loading import readable
from picie.display.colors import hex_to_rgb
from picie.display.overlays import confidence_image, draw_names, overlay
from picie.errors import InputError
from picie.inference.outputs import margin_map
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits
from picie.report.pictures import fitted, jpeg_uri, map_uri
from picie.report.subject import Subject

_EXAMPLES = 6
UNLABELLED = (0, 0, 0)
_MAX_SIDE = 400  # pixels; the page shows pictures at up to 280 pixels


@dataclass(frozen=True)
class Picture:
    """One picture of the page: its caption, its data URI and its alternative text."""

    title: str
    uri: str
    alt: str
    exact: bool = False  # whether it is a label map, which must be enlarged without smoothing


@dataclass(frozen=True)
class Example:
    """One image's row of pictures.

    `unlabelled` is true if some pixels of its label have no class.
    """

    name: str
    pictures: list[Picture]
    unlabelled: bool = False


def gather_examples(subject: Subject) -> list[Example]:
    """A few images of the labelled split, or else of the training images, with predictions."""
    dataset = subject.labelled or subject.images
    if subject.segmenter is None or dataset is None:
        return []
    examples = []
    for index, image in readable(dataset, spread(len(dataset), _EXAMPLES)):
        examples.append(_example(subject.segmenter, dataset, index, image))
        if len(examples) == _EXAMPLES:
            break
    if not examples:
        subject.notes.append("No examples: none of the images can be read.")
    return examples


def spread(n: int, k: int) -> np.ndarray:
    """All indices below `n` (n,): first `k` at equal distances, then the others as replacements.

    >>> spread(7, 3).tolist()
    [1, 3, 5, 0, 2, 4, 6]
    """
    first = np.unique(((np.arange(k) + 0.5) * n / k).astype(int)) if n > k else np.arange(n)
    return np.concatenate([first, np.setdiff1d(np.arange(n), first)])


def _example(segmenter: Segmenter, dataset: Dataset, index: int, image: Image.Image) -> Example:
    name = dataset.name(index)
    width, height = fitted(image.width, image.height, _MAX_SIDE)
    small = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    features = segmenter.encode(segmenter.to_pixels(image))
    values = segmenter.values(segmenter.clusters_of(features, (height, width))[0])
    margins = margin_map(prototype_logits(features, *segmenter.classifier), (height, width), segmenter.mixture)
    present = ", ".join(segmenter.names[i] for i in np.unique(values))
    blended = overlay(small, values, segmenter.colors)
    draw_names(blended, values, segmenter.names, max(10, blended.width // 18))
    pictures = [
        Picture("image", jpeg_uri(small), f"The image {name}"),
        Picture("prediction: its segments", map_uri(values, segmenter.colors), f"The predicted segments: {present}", True),
        Picture("overlay: both", jpeg_uri(blended), "The segments blended over the image, with their names"),
        Picture("confidence: light is sure", jpeg_uri(confidence_image(margins)), "The margin between the best two segments"),
    ]
    label = _label(dataset, index, (height, width))
    if dataset.classes is None or label is None:
        return Example(name, pictures)
    known = label < len(dataset.classes)
    colors = [*(hex_to_rgb(color) for color in dataset.classes.colors), UNLABELLED]
    present = ", ".join(dataset.classes.names[i] for i in np.unique(label[known]))
    truth = Picture("label (only for the score)", map_uri(label, colors), f"The label: {present}", True)
    return Example(name, [*pictures, truth], not known.all())


def _label(dataset: Dataset, index: int, size: tuple[int, int]) -> np.ndarray | None:
    """(H, W) int64 label at `size`, where unlabelled pixels are the number of classes.

    None if no label can be read.
    """
    if dataset.classes is None:
        return None
    try:
        label = dataset.label(index)
    except InputError:
        return None
    rows = ((np.arange(size[0]) + 0.5) * label.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * label.shape[1] / size[1]).astype(int)
    reduced = label[np.ix_(rows, columns)].astype(np.int64)
    return np.where((reduced >= 0) & (reduced < len(dataset.classes)), reduced, len(dataset.classes))
