"""Random samples of feature cells from many images, bounded in size and reproducible by a seed."""

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
from picie.data.shards import is_pattern
from picie.errors import InputError, UnreadableImageError
from picie.inference.segmenter import Segmenter
from picie.runtime.progress import Progress
from picie.runtime.rng import permutation

_BATCH = 16
_MAX_VALUES = 2**25  # float32 values in a sample: 128 MB
Load = Callable[[Image.Image], Tensor]
_Item = tuple[int, Tensor, np.ndarray | None]


@dataclass(frozen=True)
class Sample:
    """Feature cells of several images.

    Attributes:
        points: (n, D) features, of the dtype and on the device that they were computed with.
        images: (n,) int64, the index of each point's image.
        classes: (n,) int64, each point's class; all 0 if no labels were read.
    """

    points: Tensor
    images: np.ndarray
    classes: Tensor


@dataclass(frozen=True)
class SampleSpec:
    """What to sample from each image, and how much.

    Attributes:
        load: converts a picture to (3, H, W) uint8.
        seed: determines the images and the cells.
        images: maximum number of images. 4096 take about three minutes on a CPU, at 45 ms each.
        points: maximum number of cells, but at least one per image. A sample also has at most 2^25
            values, 128 MB.
        labelled: read the labels, and take only cells that have a class.
    """

    load: Load
    seed: int
    images: int = 2**12
    points: int = 2**17
    labelled: bool = False


def training_images(config: DataConfig, data: str | Path | None = None, dataset: str | None = None) -> Dataset:
    """Open the images that a run was trained on, or those in another folder.

    Args:
        config: the run's section [data].
        data: a folder to use instead of the run's own.
        dataset: the dataset that `data` holds. None uses the run's own dataset, or "folder" if
            that takes no folder.

    Raises:
        InputError: the images cannot be found.
    """
    if data is not None:
        name = dataset or (config.name if takes_folder(config.name) else "folder")
        other = {"name": name, "root": str(data), "held_out": ()}
        return open_dataset(config.model_copy(update=other), config.train_split)
    if config.root is not None and not is_pattern(config.root) and not Path(config.root).exists():
        raise InputError(f"{config.root}: the run's images are no longer there; give a folder of images by --data DIR")
    return open_dataset(config, config.train_split, "train")


def centre_square(side: int) -> Load:
    """Return a loader of the centre square of a picture, `side` pixels a side, for scoring."""
    return lambda image: torch.from_numpy(centre_frame(image, (side, side)))


@torch.no_grad()
def sample_cells(features: Callable[[Tensor], Tensor], dataset: Dataset, spec: SampleSpec, bars: Progress) -> Sample:
    """Sample the same number of random cells from each readable image.

    If there are more images than `spec.images`, a random part of them is used.

    The class of a cell is that of the pixel at its centre, so that small objects keep their share
    of the pixels in the sample.

    Args:
        features: computes (B, D, h, w) from (B, 3, H, W) uint8.
        dataset: the images.
        spec: how to load the images, and how much to sample.
        bars: shows the progress.

    Raises:
        InputError: there is no cell at all, or a label cannot be used.
    """
    chosen = np.sort(permutation(len(dataset), spec.seed, "sampled images")[: spec.images])
    ignore = dataset.classes.ignore if dataset.classes is not None else -1

    def read(index: int) -> tuple[Tensor, np.ndarray | None] | None:
        try:
            return spec.load(dataset.image(index)), dataset.label(index) if spec.labelled else None
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
                share = max(1, min(spec.points, _MAX_VALUES // len(z)) // len(chosen))
                picked = usable[permutation(len(usable), spec.seed, "sampled cells", index)[:share]]
                cells.append(z.flatten(1).T[torch.from_numpy(picked).to(z.device)])
                owners.append(np.full(len(picked), index, dtype=np.int64))
                classes.append(torch.from_numpy(values.ravel()[picked].astype(np.int64)))
            advance(len(batch))
    if not sum(map(len, cells)):
        raise InputError("no cell can be sampled: no image can be read, or no pixel has a class; give other images")
    return Sample(torch.cat(cells), np.concatenate(owners), torch.cat(classes).to(cells[0].device))


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Group consecutive items whose pixels have the same size, at most 16 in a group."""
    batch: list[_Item] = []
    for item in items:
        if batch and (len(batch) == _BATCH or batch[0][1].shape != item[1].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def sample_predicted(
    segmenter: Segmenter, dataset: Dataset, bars: Progress, images: int, points: int, labelled: bool = False
) -> Sample:
    """Sample unit-norm features of whole pictures at the size that `predict` computes them.

    The arguments are those of `SampleSpec`. Raises `InputError`.
    """

    def whole(image: Image.Image) -> Tensor:
        return segmenter.to_pixels(image)[0]

    spec = SampleSpec(whole, segmenter.config.seed, images, points, labelled)
    return sample_cells(segmenter.encode, dataset, spec, bars)


def classify(points: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return (n,) clusters and scores of `points` (n, D) under (K, D) weights and (K,) offsets."""
    scores, clusters = torch.addmm(offset.to(points), points, weight.T.to(points)).max(1)
    return clusters, scores
