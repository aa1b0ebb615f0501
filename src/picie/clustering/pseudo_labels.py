"""Where pseudo-labels are made: cluster the features of each view, then label every cell (paper, section 3.1; METHOD 2).

    pass 1: z = method.features(...); the first batches give k-means its start, later ones move its centroids
    pass 2: store[view, image] = nearest centroid of each cell; counts -> class weights, statistics

Both passes ask for the same draws as the training pass of the epoch, so a label belongs to the very crop that is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.kmeans import KMeans, Metric, Tally, assign
from picie.config import Config
from picie.data.loading import Frames, split_batches
from picie.engine import Engine
from picie.methods.base import Method
from picie.views.draws import derived_seed, permutation
from picie.views.geometry import shrink
from picie.views.two_views import TwoViews, ViewDraws


class PseudoLabelStore:
    """The pseudo-labels of an epoch in one memory-mapped .npy file: (V, N, h, w), uint8, or uint16 where K > 256.

    Args:
        path: the file; one of the same shape and type is opened as it is, any other is replaced.
        shape: (V, N, h, w).
        k: number of clusters.

    Attributes:
        found: the file was there.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], k: int) -> None:
        dtype = np.uint8 if k <= 256 else np.uint16
        if path.is_file():
            existing = np.load(path, mmap_mode="r+")
            self.found = existing.shape == shape and existing.dtype == dtype
            if self.found:
                self._map = existing
                return
        self.found = False
        self._map = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    def write(self, view: int, indices: np.ndarray, labels: Tensor) -> None:
        """Store `labels` (B, h, w) of the images `indices`."""
        self._map[view, indices] = labels.cpu().numpy()

    def read(self, indices: np.ndarray) -> Tensor:
        """(V, B, h, w) int64 labels of the images `indices`."""
        return torch.from_numpy(self._map[:, indices].astype(np.int64))

    def flush(self) -> None:
        """Hand everything written to the operating system's care."""
        self._map.flush()


@dataclass(frozen=True)
class Clustering:
    """What clustering an epoch gave.

    Attributes:
        centroids: (V, K, D).
        counts: (V, K) int64 cells in each cluster.
        objective: per view, mean squared distance of a cell to its centroid.
        imbalance: per view, K times the sum of squared shares.
        empty: per view, clusters without a cell.
    """

    centroids: Tensor
    counts: Tensor
    objective: list[float]
    imbalance: list[float]
    empty: list[int]


def generate_pseudo_labels(
    method: Method,
    frames: Frames,
    indices: np.ndarray,
    views: TwoViews,
    epoch: int,
    config: Config,
    engine: Engine,
    store: PseudoLabelStore,
    advance: Callable[[str, int], None],
) -> Clustering:
    """Cluster the features of every view of the images `indices` and write their pseudo-labels to `store`.

    Args:
        method: makes the features.
        frames: the images.
        indices: (N,) images that take part.
        views: makes the draws.
        epoch: the epoch whose draws are used.
        config: the run's configuration.
        engine: device and precision.
        store: takes the labels.
        advance: called as (stage, images) with stage "cluster" or "label" and the number of images just done.
    """
    kmeans = _cluster(method, frames, indices, views, epoch, config, engine, lambda n: advance("cluster", n))
    tallies = [Tally(config.cluster.k) for _ in kmeans]
    method.eval()
    for batch, view, z in _view_features(
        method, frames, split_batches(np.sort(indices), config.cluster.batch_size), views, epoch, engine
    ):
        clusters, distances = assign(_points(z), kmeans[view].centroids)
        store.write(view, batch, clusters.view(z.shape[0], z.shape[2], z.shape[3]))
        tallies[view].add(clusters, distances)
        if view == 0:
            advance("label", len(batch))
    store.flush()
    return Clustering(
        centroids=torch.stack([k.centroids for k in kmeans]),
        counts=torch.stack([tally.counts for tally in tallies]),
        objective=[tally.objective for tally in tallies],
        imbalance=[tally.imbalance for tally in tallies],
        empty=[tally.empty for tally in tallies],
    )


def _cluster(
    method: Method,
    frames: Frames,
    indices: np.ndarray,
    views: TwoViews,
    epoch: int,
    config: Config,
    engine: Engine,
    advance: Callable[[int], None],
) -> list[KMeans]:
    """Pass 1: one k-means a view, its centroids found."""
    options = config.cluster
    seeds = [derived_seed(config.seed, epoch, "kmeans", view) for view in range(method.views)]
    kmeans = [_kmeans(config, seed) for seed in seeds]
    order = indices[permutation(len(indices), config.seed, epoch, "cluster")]
    batches = split_batches(order, options.batch_size)
    n_start = min(options.init_batches, len(batches))
    samples = [_Sample(options.init_points, n_start, seed) for seed in seeds]
    method.train(options.batchnorm == "train")
    done = [0] * method.views
    for batch, view, z in _view_features(method, frames, batches, views, epoch, engine):
        points = _points(z)
        if done[view] < n_start:
            samples[view].add(points)
        else:
            kmeans[view].update(points)
        done[view] += 1
        if done[view] == n_start:
            warm = method.centroids[view] if options.warm_start and epoch > 0 else None
            sample, weight = samples[view].take()
            kmeans[view].start(sample, warm, weight)
        if view == 0:
            advance(len(batch))
    return kmeans


@torch.no_grad()
def refit_prototypes(
    method: Method, frames: Frames, indices: np.ndarray, config: Config, engine: Engine, advance: Callable[[int], None]
) -> Tensor:
    """(K, D) centroids of whole, unaltered images under the network as it is now: what prediction will meet.

    The epoch's centroids are those of cropped and recoloured views under the network before its training pass. Here as many
    images as for the clustering's start are clustered as they are, from the best (by objective) of the epoch's centroids and
    new starts: one start alone leaves the score to chance (31 to 36 mIoU from one network, docs/log.md).
    """
    options = config.cluster
    order = indices[permutation(len(indices), config.seed, "refit")][: options.init_batches * options.batch_size]
    batches = split_batches(order, options.batch_size)
    sample = _Sample(options.init_points, len(batches), derived_seed(config.seed, "refit"))
    method.eval()
    for batch, pixels in frames.batches(batches):
        images = shrink(engine.to_images(pixels), (config.views.size,) * 2)
        sample.add(_points(F.normalize(method.network(images), dim=1)))
        advance(len(batch))
    points, _ = sample.take()
    kmeans = _kmeans(config, derived_seed(config.seed, "refit"), options.refit)
    kmeans.start(points, kmeans.best_start(points, list(method.centroids)))
    return kmeans.centroids


def _kmeans(config: Config, seed: int, restarts: int = 1) -> KMeans:
    options = config.cluster
    metric: Metric = "spherical" if options.metric == "spherical" else "euclidean"
    return KMeans(options.k, metric, options.lloyd_steps, options.reseed, seed, restarts)


def _view_features(
    method: Method, frames: Frames, batches: Sequence[np.ndarray], views: TwoViews, epoch: int, engine: Engine
) -> Iterator[tuple[np.ndarray, int, Tensor]]:
    """Yield (indices, view, features (B, D, h, w)) of each batch and view."""
    for indices, pixels in frames.batches(batches):
        draws: ViewDraws = views.draw(epoch, indices, method.views)
        images = engine.to_images(pixels)
        for view in range(method.views):
            with torch.no_grad():
                z = method.features(images, draws, view)
            yield indices, view, z


def _points(z: Tensor) -> Tensor:
    """(B * h * w, D) of features (B, D, h, w)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


class _Sample:
    """A bounded sample of points: an equal, random share of each of `n_batches` batches."""

    def __init__(self, size: int, n_batches: int, seed: int) -> None:
        self._share = -(-size // n_batches)
        self._generator = torch.Generator().manual_seed(seed)
        self._parts: list[Tensor] = []
        self._seen = 0

    def add(self, points: Tensor) -> None:
        self._seen += len(points)
        if len(points) > self._share:
            picked = torch.randperm(len(points), generator=self._generator)[: self._share]
            points = points[picked.to(points.device)]
        self._parts.append(points)

    def take(self) -> tuple[Tensor, float]:
        """The sample, and the number of points that each of its points stands for."""
        sample = torch.cat(self._parts)
        self._parts = []
        return sample, self._seen / len(sample)
