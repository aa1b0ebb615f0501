"""Clusters of whole training images: those that predict, and those that a run starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from picie.clustering.kmeans import KMeans
from picie.clustering.point_sample import PointSample, points_of
from picie.clustering.smoothed_kmeans import Map, smoothed_lloyd
from picie.config import Config
from picie.data.loading import split_batches
from picie.runtime.profiling import stage
from picie.runtime.rng import derived_seed
from picie.training.feature_source import FeatureSource
from picie.views.geometry import Geometry

# On CamVid, with two networks and four choices each, 64, 96, 128 and 320 images score the same
# (docs/research/log.md).
_IMAGES = 128
_POINTS_PER_CLUSTER = 2**6
_FEATURES = 2**26  # numbers that smoothed k-means holds of each view: 134 MB in bfloat16


def first_clusters(source: FeatureSource, n: int, advance: Callable[[int], None]) -> list[Tensor]:
    """Return (K, D) centroids for each head, of `n` whole images under the untrained network."""
    kmeans = [_kmeans(source.config, k, "first") for k in source.config.cluster.heads.values()]
    return _cluster(source, kmeans, n, (), advance)


def refit_prototypes(source: FeatureSource, n: int, advance: Callable[[int], None]) -> Tensor:
    """Return (K, D) centroids of `n` whole, untransformed images under the current network.

    The epoch's centroids come from cropped and recoloured views, computed before the training
    pass. Here images are clustered as prediction sees them. With `cluster.warm_start` k-means goes
    on from the mean of the views' centroids, and clusters keep their identities. Otherwise it
    starts from the candidate with the lowest inertia: the epoch's centroids or one of several new
    starts. With a single start the score varies by chance: from 31 to 36 mIoU for one network
    (docs/research/log.md).
    """
    options, centroids = source.config.cluster, source.method.centroids
    start = centroids.mean(0) if options.warm_start else list(centroids)
    (found,) = _cluster(source, [_kmeans(source.config, options.k, "refit")], n, start, advance)
    return found


def _kmeans(config: Config, k: int, purpose: str) -> KMeans:
    options, seed = config.cluster, derived_seed(config.seed, purpose)
    return KMeans(k, options.kmeans_metric, options.lloyd_steps, options.reseed, seed, options.refit)


@torch.no_grad()
def _cluster(
    source: FeatureSource, heads: Sequence[KMeans], n: int, start: Tensor | Sequence[Tensor], advance: Callable[[int], None]
) -> list[Tensor]:
    """Return (K, D) centroids of `n` whole images for each of `heads`.

    K-means goes on from `start` (K, D), or from the best of new starts and the candidates `start`.
    """
    options, method, smoothing = source.config.cluster, source.method, source.smoothing
    batches = split_batches(source.order("refit")[:n], options.batch_size)
    by_cells = smoothing is None or not isinstance(start, Tensor)  # k-means of single cells, first or only
    sample = PointSample(options.init_points, len(batches), heads[0].seed)
    maps: list[Map] = []
    method.eval()
    with source.folded():
        for batch, images in source.whole_images(batches):
            with stage("forward"):
                z = method.predict_features(images)
            with stage("features"):
                if by_cells:
                    sample.add(points_of(z))
                if smoothing is not None:
                    guide = Geometry.identity(len(images)).apply(images, (z.shape[2], z.shape[3])).float()
                    maps.append((z, guide))
            advance(len(batch))
    found = []
    with stage("k-means"):
        points = sample.take()[0] if by_cells else None
        for kmeans in heads:
            if points is not None:
                kmeans.start(points, start if isinstance(start, Tensor) else kmeans.best_start(points, start))
            centroids = kmeans.centroids if points is not None else start
            assert isinstance(centroids, Tensor)
            if smoothing is not None:
                steps, metric = options.lloyd_steps, options.kmeans_metric
                centroids = smoothed_lloyd(maps, centroids, steps, metric, smoothing, options.reseed)
            found.append(centroids)
    return found


def refit_images(config: Config, images: int, cells: int) -> int:
    """Return how many of `images` images are enough to cluster.

    128 images are enough for a small dataset, and a tenth of the images for a larger one, but at
    most `cluster.init_batches` batches, from which k-means samples its start: 320 images. If K is
    large, more are used, so that there are 64 cells per cluster at `cells` feature cells per
    image. With `cluster.smooth` the features must fit into memory: 327 views of 160 px at D = 128,
    81 of 320 px.
    """
    options = config.cluster
    enough = max(_IMAGES, images // 10, _POINTS_PER_CLUSTER * options.k // cells)
    if options.smooth:
        enough = min(enough, max(1, _FEATURES // (config.model.dim * cells)))
    return min(images, options.init_batches * options.batch_size, enough)


def first_images(batches: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """Return the first `n` images of `batches`, in these batches."""
    starts = np.cumsum([0, *map(len, batches)]).tolist()
    return [batch[: n - start] for batch, start in zip(batches, starts, strict=False) if start < n]
