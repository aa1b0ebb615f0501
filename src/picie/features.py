"""Batches of a run's images and of their features: what every pass over the data asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from picie.config import Config
from picie.data.loading import Frames
from picie.engine import Engine
from picie.methods.base import Method
from picie.stages import stage
from picie.views.draws import permutation
from picie.views.geometry import shrink
from picie.views.two_views import TwoViews


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
            with stage("augment"):
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
            with stage("augment"):
                images = shrink(self.engine.to_images(pixels), size)
            yield indices, images
