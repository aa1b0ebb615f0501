"""The clusters that predict: centroids of whole images under the trained network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from picie.clustering.kmeans import KMeans
from picie.clustering.point_sample import PointSample, points_of
from picie.config import Config
from picie.data.loading import split_batches
from picie.runtime.profiling import stage
from picie.runtime.rng import derived_seed
from picie.training.feature_source import FeatureSource

_IMAGES = 128  # CamVid, two networks, four choices each: 64, 96, 128 and 320 images score the same (docs/research/log.md)
_POINTS_PER_CLUSTER = 2**6


@torch.no_grad()
def refit_prototypes(source: FeatureSource, n: int, advance: Callable[[int], None]) -> Tensor:
    """(K, D) centroids of `n` whole, untransformed images under the current network.

    The epoch's centroids belong to cropped and recoloured views, under the network before its training
    pass. Here images are clustered as prediction sees them. K-means starts from the best, by inertia, of
    the epoch's centroids and several new starts. With a single start the score varies by chance: from
    31 to 36 mIoU for one network (docs/research/log.md).
    """
    config, method = source.config, source.method
    options = config.cluster
    batches = split_batches(source.order("refit")[:n], options.batch_size)
    seed = derived_seed(config.seed, "refit")
    sample = PointSample(options.init_points, len(batches), seed)
    method.eval()
    with source.folded():
        for batch, images in source.whole_images(batches):
            with stage("forward"):
                z = method.predict_features(images)
            with stage("features"):
                sample.add(points_of(z))
            advance(len(batch))
    with stage("k-means"):
        points, _ = sample.take()
        kmeans = KMeans(options.k, options.kmeans_metric, options.lloyd_steps, options.reseed, seed, options.refit)
        kmeans.start(points, kmeans.best_start(points, list(method.centroids)))
    return kmeans.centroids


def refit_images(config: Config, images: int, cells: int) -> int:
    """How many of `images` images, with `cells` feature cells each, `refit_prototypes` should use.

    128 images are enough for a small dataset and a tenth of the images for a large one, or as many as K
    clusters need; never more than k-means samples its start from.
    """
    options = config.cluster
    enough = max(_IMAGES, images // 10, _POINTS_PER_CLUSTER * options.k // cells)
    return min(images, options.init_batches * options.batch_size, enough)
