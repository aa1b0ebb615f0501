"""Batches of a run's images and of their features: what every pass over the data asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from picie.config import Config
from picie.data.base import Dataset
from picie.data.images import centre_frame, centre_label
from picie.data.loading import Frames, read_ahead, split_batches
from picie.engine import Engine
from picie.errors import InputError, UnreadableImageError
from picie.methods.base import Method
from picie.runlog import Progress
from picie.views.draws import permutation
from picie.views.geometry import shrink
from picie.views.two_views import TwoViews

_BATCH = 16
_IMAGES = 2**12  # images that a sample of cells is taken from: at 15 ms each a minute on a CPU
_CELLS, _VALUES = 2**17, 2**25  # most cells, and most numbers, 128 MB, in a sample


@dataclass(frozen=True)
class FeatureSource:
    """The images that take part, and all that turns them into features.

    Attributes:
        config: the run's configuration.
        method: makes features of images and draws.
        views: makes draws of (epoch, image).
        frames: the images.
        indices: (N,) int64, those that take part, rising.
        engine: device and precision.
    """

    config: Config
    method: Method
    views: TwoViews
    frames: Frames
    indices: np.ndarray
    engine: Engine

    def order(self, *purpose: int | str) -> np.ndarray:
        """(N,) the images in an order that is a function of the seed and of `purpose`."""
        ordered: np.ndarray = self.indices[permutation(len(self.indices), self.config.seed, *purpose)]
        return ordered

    def view_features(self, batches: Sequence[np.ndarray], epoch: int) -> Iterator[tuple[np.ndarray, int, Tensor]]:
        """Yield (indices, view, unit-norm features (B, D, h, w)) of each batch and view, with the draws of `epoch`."""
        for indices, pixels in self.frames.batches(batches):
            draws = self.views.draw(epoch, indices, self.method.views)
            images = self.engine.to_images(pixels)
            for view in range(self.method.views):
                with torch.no_grad():
                    z = self.method.features(images, draws, view)
                yield indices, view, z

    def whole_images(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (indices, images (B, 3, H, W) in [0, 1]) of each batch: whole frames at the views' size, unaltered."""
        size = self.config.views.view_size
        for indices, pixels in self.frames.batches(batches):
            yield indices, shrink(self.engine.to_images(pixels), size)


@torch.no_grad()
def sample_cells(
    features: Callable[[Tensor], Tensor], dataset: Dataset, config: Config, bars: Progress, labelled: bool = False
) -> tuple[Tensor, Tensor]:
    """An equal number of random cells of each image that can be read, or of 4096 random images if there are more.

    Images are seen as they are scored: their centre square, unaltered, with `evaluate_size` pixels a side. A cell's class is
    that of the pixel at its centre, so that small things keep the share in the sample that they have in the pictures.

    Args:
        features: makes (B, D, h, h) of (B, 3, s, s) uint8.
        dataset: the images.
        config: the run's configuration.
        bars: shows how far it is.
        labelled: open the labels, and take only cells that have a class.

    Returns:
        (n, D) float32 features and (n,) int64 classes, all 0 if not `labelled`; at most 2^17 cells and 2^25 numbers.

    Raises:
        InputError: no cell at all, or a label that cannot be used.
    """
    images = np.sort(permutation(len(dataset), config.seed, "sampled images")[:_IMAGES])
    ignore = dataset.classes.ignore if dataset.classes is not None else -1
    loaded = read_ahead(lambda i: _load_frame(dataset, i, config.evaluate_size, labelled), images.tolist())
    points, classes = [], []
    with bars.bar("sample cells", len(images)) as advance:
        for batch in split_batches(images, _BATCH):
            read = [(int(i), *pair) for i in batch if (pair := next(loaded)) is not None]
            maps = features(torch.from_numpy(np.stack([frame for _, frame, _ in read]))) if read else ()
            for (index, _, label), z in zip(read, maps, strict=True):
                values = (
                    np.zeros(z[0].numel(), np.int64) if label is None else centre_label(label, (z.shape[1], z.shape[2])).ravel()
                )
                usable = np.flatnonzero(values != ignore)
                share = max(1, min(_CELLS, _VALUES // len(z)) // len(images))
                picked = usable[permutation(len(usable), config.seed, "sampled cells", index)[:share]]
                points.append(z.flatten(1).T[torch.from_numpy(picked).to(z.device)])
                classes.append(torch.from_numpy(values[picked].astype(np.int64)))
            advance(len(batch))
    if not sum(map(len, points)):
        raise InputError("no cell can be sampled: no image can be read, or no pixel has a class")
    return torch.cat(points), torch.cat(classes).to(points[0].device)


def _load_frame(dataset: Dataset, index: int, side: int, labelled: bool) -> tuple[np.ndarray, np.ndarray | None] | None:
    """The square frame of an image, and its whole label if asked for; None for an image that cannot be read."""
    try:
        return centre_frame(dataset.image(index), (side, side)), dataset.label(index) if labelled else None
    except UnreadableImageError:
        return None
