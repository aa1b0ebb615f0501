"""Features of a run's own images: a bounded, seeded sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from picie.data import open_dataset, takes_folder
from picie.data.base import Dataset
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError
from picie.inference import Segmenter
from picie.runlog import Progress
from picie.views.draws import permutation


@dataclass(frozen=True)
class Sample:
    """Feature cells of several images.

    Attributes:
        points: (n, D) float32, unit norm, on the run's device.
        images: (n,) int64, which image each point is from.
    """

    points: Tensor
    images: np.ndarray


def training_images(segmenter: Segmenter, data: str | Path | None = None) -> Dataset:
    """The images that a run was trained on, or those in the folder `data`. Raises `InputError`."""
    own = segmenter.config.data
    if data is not None:
        name = own.name if takes_folder(own.name) else "folder"
        return open_dataset(own.model_copy(update={"name": name, "root": str(data)}), own.train_split)
    if own.root is not None and not Path(own.root).exists():
        raise InputError(f"{own.root}: the run's images are not there any more; give a folder of images, --data DIR")
    return open_dataset(own, own.train_split)


def sample_features(segmenter: Segmenter, dataset: Dataset, images: int, points: int, bars: Progress) -> Sample:
    """An equal number of random cells of random images, which are seen whole, as `predict` sees them.

    Args:
        segmenter: makes the features.
        dataset: the images.
        images: most images.
        points: most points; at least one of each image.
        bars: shows how far it is.

    Raises:
        InputError: none of the images can be read.
    """
    seed = segmenter.config.seed
    chosen = permutation(len(dataset), seed, "sampled images")[:images].tolist()
    share = max(1, points // len(chosen))
    found, owners = [], []

    def load(index: int) -> Tensor | None:
        try:
            return segmenter.to_pixels(dataset.image(index))
        except UnreadableImageError:
            return None

    with bars.bar("sample features", len(chosen)) as advance:
        for index, pixels in zip(chosen, read_ahead(load, chosen, ahead=8), strict=True):
            advance(1)
            if pixels is not None:
                cells = segmenter.features(pixels)[0].flatten(1).T
                picked = permutation(len(cells), seed, "sampled cells", index)[:share]
                found.append(cells[torch.from_numpy(picked).to(cells.device)])
                owners += [index] * len(picked)
    if not found:
        raise InputError(f"none of {len(chosen)} images can be read; give others, --data DIR")
    return Sample(torch.cat(found), np.array(owners, dtype=np.int64))


def classify(points: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) clusters and scores of `points` (n, D)."""
    scores, clusters = torch.addmm(offset.to(points), points, weight.T.to(points)).max(1)
    return clusters, scores
