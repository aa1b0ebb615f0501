"""Batches of a run's images and of their features: what every pass over the data asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from picie.config import Config
from picie.data.loading import FrameCache
from picie.methods.base import Method
from picie.runtime import distributed
from picie.runtime.device import Engine
from picie.runtime.profiling import stage
from picie.runtime.rng import permutation
from picie.views.geometry import Geometry
from picie.views.two_views import BatchViews, TwoViews


class Kept:
    """Tensors of views, kept from one pass over the data to the next.

    Args:
        most: bytes to keep; what is beyond is made again when it is needed.
    """

    def __init__(self, most: float) -> None:
        self._most, self._used = most, 0
        self._kept: dict[tuple[int, int], list[Tensor]] = {}

    def put(self, indices: np.ndarray, view: int, tensors: Sequence[Tensor]) -> None:
        """Keep `tensors`, (B, C, h, w) each, of one view of the images `indices`, if there is room for all of them."""
        size = sum(tensor.nbytes for tensor in tensors)
        if self._used + size > self._most:
            return
        self._used += size
        cells = [tensor.permute(0, 2, 3, 1).contiguous() for tensor in tensors]
        for position, index in enumerate(indices.tolist()):
            self._kept[index, view] = [own[position] for own in cells]

    def holds(self, indices: np.ndarray, views: Sequence[int]) -> bool:
        """Whether `take` has all these views of all these images, of which there is one at least."""
        return bool(len(indices)) and all((index, view) in self._kept for view in views for index in indices.tolist())

    def take(self, indices: np.ndarray, view: int) -> list[Tensor]:
        """What `put` was given of these images, in any order, channels last."""
        parts = zip(*(self._kept[index, view] for index in indices.tolist()), strict=True)
        return [torch.stack(part).permute(0, 3, 1, 2) for part in parts]

    def __len__(self) -> int:
        """How many images' views are kept."""
        return len(self._kept)

    def clear(self) -> None:
        """Give all memory back."""
        self._kept.clear()
        self._used = 0


class Leftovers:
    """What clustering made of an epoch's views, left for the epoch's later passes: memory for time.

    Labelling goes by clustering's batches and takes the backbone's levels, of as many as fit, so that these need no forward.
    Training shuffles anew, so for it either all is kept or nothing: the pictures, so that views are cut and coloured once, or,
    if the backbone is frozen, the levels. EfficientNet-Lite0 at 160 px makes levels of 147 kB a view in bfloat16, ResNet-18 of
    384 kB; a picture has 154 kB.

    Args:
        most: bytes on the device, levels and pictures together.
        frozen: whether training takes the levels.
        n: views of all images.
    """

    def __init__(self, most: float, frozen: bool, n: int) -> None:
        self._most, self._frozen, self._n = most, frozen, n
        self.levels, self.pictures = Kept(most), Kept(most)

    def put(self, indices: np.ndarray, view: int, levels: Sequence[Tensor], picture: Tensor) -> None:
        """Leave the `levels`, if any are of use later, and the `picture`s (B, 3, H, W) of a view of the images `indices`."""
        if levels:
            self.levels.put(indices, view, levels)
        all_bytes = sum(tensor.nbytes for tensor in (*levels, picture)) / max(1, len(indices)) * self._n
        # Of several processes each meets other images when training.
        if not self._frozen and all_bytes <= self._most and distributed.world_size() == 1:
            self.pictures.put(indices, view, [picture])

    def labelled(self) -> None:
        """Labels are made: give back what is of no more use."""
        if not self._frozen or len(self.levels) < self._n:
            self.levels.clear()

    def clear(self) -> None:
        """The epoch is done: give back all."""
        self.levels.clear()
        self.pictures.clear()


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
        left: what clustering left for the epoch's later passes.
    """

    config: Config
    method: Method
    views: TwoViews
    frames: FrameCache
    indices: np.ndarray
    engine: Engine
    left: Leftovers = field(default_factory=lambda: Leftovers(0, frozen=False, n=0))

    def order(self, *purpose: int | str) -> np.ndarray:
        """(N,) the images in an order that is a function of the seed and of `purpose`."""
        ordered: np.ndarray = self.indices[permutation(len(self.indices), self.config.seed, *purpose)]
        return ordered

    def folded(self) -> contextlib.AbstractContextManager[None]:
        """See `Extractor.folded`."""
        return self.method.network.folded(self.config.views.view_size)

    def batches(self, batches: Sequence[np.ndarray], epoch: int) -> Iterator[tuple[np.ndarray, BatchViews]]:
        """Yield (indices, views) of each batch, with the draws of `epoch`: of this process's part of it, which may be empty."""
        batches = [distributed.shard(indices) for indices in batches]
        views, size, left = range(self.method.views), self.config.views.view_size, self.left
        kinds = [next((k for k in (left.levels, left.pictures) if k.holds(indices, views)), None) for indices in batches]
        read = self.frames.batches([indices for indices, kept in zip(batches, kinds, strict=True) if kept is None])
        for indices, kept in zip(batches, kinds, strict=True):
            pixels = next(read)[1] if kept is None else None
            with stage("augment"):
                draws = self.views.draw(epoch, indices, len(views) if kept is None else 0)
                frames = None if pixels is None else self.engine.to_images(pixels, self.engine.picture_dtype)
            batch = BatchViews(draws, size, frames)
            if kept is left.levels:
                batch = replace(batch, levels={view: kept.take(indices, view) for view in views})
            elif kept is left.pictures:
                batch = replace(batch, made={view: kept.take(indices, view)[0] for view in views})
            yield indices, batch

    def view_maps(
        self, batches: Sequence[np.ndarray], epoch: int, leave: bool = False
    ) -> Iterator[tuple[np.ndarray, int, Tensor]]:
        """Yield (indices, view, features (B, D, h, w), of any norm) of each view of what `batches` yields.

        `leave`: what is made of them will serve the epoch's later passes, too, as far as memory was granted.
        """
        for indices, views in self.batches(batches, epoch):
            for view in range(self.method.views):
                with torch.no_grad():
                    levels = self.method.levels(views, view)
                    if leave:
                        fit = (
                            self.config.cluster.batchnorm == "eval" or self.config.model.freeze
                        )  # labels are made in eval mode
                        self.left.put(indices, view, levels if fit else (), views.pictures(view))
                    z = self.method.maps(views, view, levels)
                yield indices, view, z

    def whole_images(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (indices, images (B, 3, H, W) in [0, 1]) of this process's part of each batch: whole frames at the views' size,
        unaltered.
        """
        size = self.config.views.view_size
        for indices, pixels in self.frames.batches([distributed.shard(indices) for indices in batches]):
            with stage("augment"):
                frames = self.engine.to_images(pixels, self.engine.picture_dtype)
                images = Geometry.identity(len(frames)).apply(frames, size)
            yield indices, images
