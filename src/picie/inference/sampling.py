"""Cells of feature maps: a bounded, seeded sample from many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from picie.config import DataConfig
from picie.data import open_dataset, takes_folder
from picie.data.base import Dataset
from picie.data.images import centre_frame, centre_label
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError
from picie.inference.segmenter import Segmenter
from picie.runtime.progress import Progress
from picie.runtime.rng import permutation

_BATCH = 16
_VALUES = 2**25  # most numbers in a sample: 128 MB
Load = Callable[[Image.Image], Tensor]
_Item = tuple[int, Tensor, np.ndarray | None]


@dataclass(frozen=True)
class Sample:
    """Feature cells of several images.

    Attributes:
        points: (n, D), as the features are made.
        images: (n,) int64, which image each point is from.
        classes: (n,) int64, each point's class; all 0 where labels were not asked for.
    """

    points: Tensor
    images: np.ndarray
    classes: Tensor


def training_images(own: DataConfig, data: str | Path | None = None, dataset: str | None = None) -> Dataset:
    """The images that a run of the section [data] `own` was trained on, or those in the folder `data`.

    `dataset` says what that folder is; None: as the run's own, or a plain folder where that takes none. Raises `InputError`.
    """
    if data is not None:
        name = dataset or (own.name if takes_folder(own.name) else "folder")
        return open_dataset(own.model_copy(update={"name": name, "root": str(data)}), own.train_split)
    if own.root is not None and not Path(own.root).exists():
        raise InputError(f"{own.root}: the run's images are not there any more; give a folder of images, --data DIR")
    return open_dataset(own, own.train_split)


def centre_square(side: int) -> Load:
    """How pictures are loaded to be scored: the centre square, `side` pixels a side."""
    return lambda image: torch.from_numpy(centre_frame(image, (side, side)))


@torch.no_grad()
def sample_cells(
    features: Callable[[Tensor], Tensor],
    dataset: Dataset,
    load: Load,
    seed: int,
    bars: Progress,
    images: int = 2**12,
    points: int = 2**17,
    labelled: bool = False,
) -> Sample:
    """An equal number of random cells of each image that can be read, or of so many random images if there are more.

    A cell's class is that of the pixel at its centre, so that small things keep the share in the sample that they have in the
    pictures.

    Args:
        features: makes (B, D, h, w) of (B, 3, H, W) uint8.
        dataset: the images.
        load: makes (3, H, W) uint8 of a picture.
        seed: of the choice.
        bars: shows how far it is.
        images: most images; 4096 at 15 ms each are a minute on a CPU.
        points: most cells, at least one of each image; and at most 2^25 numbers, 128 MB.
        labelled: open the labels, and take only cells that have a class.

    Raises:
        InputError: no cell at all, or a label that cannot be used.
    """
    chosen = np.sort(permutation(len(dataset), seed, "sampled images")[:images])
    ignore = dataset.classes.ignore if dataset.classes is not None else -1

    def read(index: int) -> tuple[Tensor, np.ndarray | None] | None:
        try:
            return load(dataset.image(index)), dataset.label(index) if labelled else None
        except UnreadableImageError:
            return None

    cells, owners, classes = [], [], []
    with bars.bar("sample cells", len(chosen)) as advance:
        readable = ((int(i), *pair) for i, pair in zip(chosen, read_ahead(read, chosen.tolist()), strict=True) if pair)
        for batch in _batches(readable):
            for (index, _, label), z in zip(batch, features(torch.stack([pixels for _, pixels, _ in batch])), strict=True):
                size = (z.shape[1], z.shape[2])
                values = np.zeros(size, np.int64) if label is None else centre_label(label, size)
                usable = np.flatnonzero(values != ignore)
                share = max(1, min(points, _VALUES // len(z)) // len(chosen))
                picked = usable[permutation(len(usable), seed, "sampled cells", index)[:share]]
                cells.append(z.flatten(1).T[torch.from_numpy(picked).to(z.device)])
                owners.append(np.full(len(picked), index, dtype=np.int64))
                classes.append(torch.from_numpy(values.ravel()[picked].astype(np.int64)))
            advance(len(batch))
    if not sum(map(len, cells)):
        raise InputError("no cell can be sampled: none of the images can be read, or no pixel has a class; give others")
    return Sample(torch.cat(cells), np.concatenate(owners), torch.cat(classes).to(cells[0].device))


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Consecutive items whose pixels are of one size, at most 16."""
    batch: list[_Item] = []
    for item in items:
        if batch and (len(batch) == _BATCH or batch[0][1].shape != item[1].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def sample_predicted(segmenter: Segmenter, dataset: Dataset, bars: Progress, images: int, points: int) -> Sample:
    """A sample of unit-norm features of whole pictures, as `predict` sees them. Raises `InputError`."""

    def whole(image: Image.Image) -> Tensor:
        return segmenter.to_pixels(image)[0]

    return sample_cells(segmenter.features, dataset, whole, segmenter.config.seed, bars, images, points)


def classify(points: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) clusters and scores of `points` (n, D)."""
    scores, clusters = torch.addmm(offset.to(points), points, weight.T.to(points)).max(1)
    return clusters, scores
