"""Batches of a run's images and of their features: what every pass over the data asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from picie import processes
from picie.config import Config
from picie.data.loading import Frames
from picie.engine import Engine
from picie.methods.base import Method
from picie.stages import stage
from picie.views.draws import permutation
from picie.views.geometry import shrink
from picie.views.two_views import BatchViews, TwoViews


class KeptLevels:
    """The backbone's levels of views, kept from one pass over the data to the next: a forward costs more than its memory.

    EfficientNet-Lite0 at 160 px makes 147 kB of a view in bfloat16, ResNet-18 384 kB: half of an epoch's forwards without
    gradients are saved for 367 images in 108 or 282 MB. What is beyond the bound is computed again.

    Args:
        most: bytes to keep.
    """

    def __init__(self, most: float) -> None:
        self._most, self._used = most, 0
        self._kept: dict[tuple[int, int], list[Tensor]] = {}

    def put(self, indices: np.ndarray, view: int, levels: Sequence[Tensor]) -> None:
        """Keep `levels`, (B, C, h, w) each, of one view of the images `indices`, if there is room for all of them."""
        size = sum(level.nbytes for level in levels)
        if self._used + size > self._most:
            return
        self._used += size
        cells = [level.permute(0, 2, 3, 1).contiguous() for level in levels]
        for position, index in enumerate(indices.tolist()):
            self._kept[index, view] = [own[position] for own in cells]

    def holds(self, indices: np.ndarray, views: Sequence[int]) -> bool:
        """Whether `take` has all these views of all these images, of which there is one at least."""
        return bool(len(indices)) and all((index, view) in self._kept for view in views for index in indices.tolist())

    def take(self, indices: np.ndarray, view: int) -> list[Tensor]:
        """What `put` was given of these images, in any order, channels last."""
        parts = zip(*(self._kept[index, view] for index in indices.tolist()), strict=True)
        return [torch.stack(part).permute(0, 3, 1, 2) for part in parts]

    def clear(self) -> None:
        """Give all memory back."""
        self._kept.clear()
        self._used = 0


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
        kept: what the backbone made of the views, from one pass of the epoch to the next.
    """

    config: Config
    method: Method
    views: TwoViews
    frames: Frames
    indices: np.ndarray
    engine: Engine
    kept: KeptLevels = field(default_factory=lambda: KeptLevels(0))

    def order(self, *purpose: int | str) -> np.ndarray:
        """(N,) the images in an order that is a function of the seed and of `purpose`."""
        ordered: np.ndarray = self.indices[permutation(len(self.indices), self.config.seed, *purpose)]
        return ordered

    def batches(self, batches: Sequence[np.ndarray], epoch: int) -> Iterator[tuple[np.ndarray, BatchViews]]:
        """Yield (indices, views) of each batch, with the draws of `epoch`: of this process's part of it, which may be empty."""
        batches = [processes.part(indices) for indices in batches]
        views, size = range(self.method.views), self.config.views.view_size
        held = [self.kept.holds(indices, views) for indices in batches]
        read = self.frames.batches([indices for indices, has in zip(batches, held, strict=True) if not has])
        for indices, has in zip(batches, held, strict=True):
            pixels = None if has else next(read)[1]
            with stage("augment"):
                draws = self.views.draw(epoch, indices, len(views))
                frames = None if pixels is None else self.engine.to_images(pixels, self.engine.picture_dtype)
            yield indices, BatchViews(draws, size, frames, [self.kept.take(indices, view) for view in views] if has else ())

    def view_features(
        self, batches: Sequence[np.ndarray], epoch: int, keep: bool = False
    ) -> Iterator[tuple[np.ndarray, int, Tensor]]:
        """Yield (indices, view, unit-norm features (B, D, h, w)) of each view of what `batches` yields.

        `keep`: what the backbone makes of them will serve the epoch's later passes, too, as far as memory was granted.
        """
        for indices, views in self.batches(batches, epoch):
            for view in range(self.method.views):
                with torch.no_grad():
                    levels = self.method.levels(views, view)
                    if keep:
                        self.kept.put(indices, view, levels)
                    z = self.method.features(views, view, levels)
                yield indices, view, z

    def whole_images(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (indices, images (B, 3, H, W) in [0, 1]) of this process's part of each batch: whole frames at the views' size,
        unaltered.
        """
        size = self.config.views.view_size
        for indices, pixels in self.frames.batches([processes.part(indices) for indices in batches]):
            with stage("augment"):
                images = shrink(self.engine.to_images(pixels, self.engine.picture_dtype), size)
            yield indices, images
