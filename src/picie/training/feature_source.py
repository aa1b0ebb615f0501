"""Batches of a run's views and of their features, for every pass over the training images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from picie.clustering.smoothed_kmeans import Smoothing
from picie.config import Config
from picie.data.loading import FrameCache
from picie.methods.base import Method
from picie.runtime import distributed
from picie.runtime.device import Engine
from picie.runtime.profiling import stage
from picie.runtime.rng import permutation
from picie.training.view_cache import Kind, ViewCache
from picie.views.geometry import Geometry
from picie.views.two_views import BatchViews, TwoViews, ViewDraws


@dataclass(frozen=True)
class FeatureSource:
    """The training images, and the parts that compute their features.

    Attributes:
        config: the run's configuration.
        method: computes features of views.
        views: draws the transforms of each (epoch, image).
        frames: the decoded images.
        indices: (N,) int64 ascending indices of the images that are used.
        engine: device and precision.
        cache: views that clustering caches for the epoch's later passes.
    """

    config: Config
    method: Method
    views: TwoViews
    frames: FrameCache
    indices: np.ndarray
    engine: Engine
    cache: ViewCache = field(default_factory=ViewCache)

    @property
    def smoothing(self) -> Smoothing | None:
        """How clusters are smoothed; None if cells are clustered one by one."""
        config = self.config
        return Smoothing(config.cluster.smooth, config.loss.temperature) if config.cluster.smooth else None

    def order(self, *purpose: int | str) -> np.ndarray:
        """Return the images (N,) in an order that depends only on the seed and `purpose`."""
        ordered: np.ndarray = self.indices[permutation(len(self.indices), self.config.seed, *purpose)]
        return ordered

    def folded(self) -> contextlib.AbstractContextManager[None]:
        """See `Extractor.folded`."""
        return self.method.folded(self.config.views.view_size)

    def batches(self, batches: Sequence[np.ndarray], epoch: int) -> Iterator[tuple[np.ndarray, BatchViews]]:
        """Yield (indices, views) of this process's shard of each batch.

        The draws are those of `epoch`. A shard may be empty.
        """
        batches = [distributed.shard(indices) for indices in batches]
        kinds = [self.cache.find(indices, range(self.method.views)) for indices in batches]
        read = self.frames.batches([indices for indices, kind in zip(batches, kinds, strict=True) if kind is None])
        for indices, kind in zip(batches, kinds, strict=True):
            if kind is not None:
                yield indices, self._cached(indices, kind, epoch)
                continue
            pixels = next(read)[1]
            with stage("augment"):
                draws = self.views.draw(epoch, indices, self.method.views)
                frames = self.engine.to_images(pixels, self.engine.picture_dtype)
            yield indices, BatchViews(draws, self.config.views.view_size, frames)

    def _cached(self, indices: np.ndarray, kind: Kind, epoch: int) -> BatchViews:
        """Return the views of images whose levels or pictures are cached.

        Frames are read only if the method asks for pictures.
        """

        def load() -> tuple[ViewDraws, Tensor]:
            pixels = next(self.frames.batches([indices]))[1]
            draws = self.views.draw(epoch, indices, self.method.views)
            return draws, self.engine.to_images(pixels, self.engine.picture_dtype)

        with stage("augment"):
            # Only the geometry; `load` draws the colours.
            draws = self.views.draw(epoch, indices, 0)
        size, views = self.config.views.view_size, range(self.method.views)
        cached = {view: self.cache.get(kind, indices, view) for view in views}
        if kind == "levels":
            return BatchViews(draws, size, load=load, levels=cached)
        return BatchViews(draws, size, load=load, made={view: pictures for view, (pictures,) in cached.items()})

    def view_features(
        self, batches: Sequence[np.ndarray], epoch: int, fill_cache: bool = False
    ) -> Iterator[tuple[np.ndarray, BatchViews, int, Tensor]]:
        """Yield (indices, views, view, features) of each view of each batch of `batches`.

        Features are (B, D, h, w), of any norm.

        Args:
            batches: indices of the images of each batch.
            epoch: the epoch whose draws are used.
            fill_cache: put the views into the cache, for the epoch's later passes.
        """
        for indices, views in self.batches(batches, epoch):
            for view in range(self.method.views):
                with torch.no_grad():
                    levels = self.method.view_levels(views, view) if self.method.caches_levels else ()
                    if fill_cache and views.frames is not None:  # not cached yet
                        # Labels use eval mode; levels of another mode cannot be reused.
                        reusable = self.config.cluster.batchnorm == "eval" or self.method.has_fixed_levels
                        self.cache.put(indices, view, levels if reusable else (), views.pictures(view))
                    z = self.method.view_features(views, view, levels or None)
                yield indices, views, view, z

    def whole_images(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (indices, images (B, 3, H, W) in [0, 1]) of this process's shard of each batch.

        The images are whole frames at the views' size, not transformed.
        """
        size = self.config.views.view_size
        for indices, pixels in self.frames.batches([distributed.shard(indices) for indices in batches]):
            with stage("augment"):
                frames = self.engine.to_images(pixels, self.engine.picture_dtype)
                images = Geometry.identity(len(frames)).apply(frames, size)
            yield indices, images
