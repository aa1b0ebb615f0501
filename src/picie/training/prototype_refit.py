"""Refits the prototypes: centroids of whole images, computed by the trained network."""

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

# On CamVid, with two networks and four choices each, 64, 96, 128 and 320 images score the same
# (docs/research/log.md).
_IMAGES = 128
_POINTS_PER_CLUSTER = 2**6


@torch.no_grad()
def refit_prototypes(source: FeatureSource, n: int, advance: Callable[[int], None]) -> Tensor:
    """Return (K, D) centroids of `n` whole, untransformed images under the current network.

    The epoch's centroids come from cropped and recoloured views, computed before the training
    pass. Here images are clustered as prediction sees them. K-means starts from the candidate with
    the lowest inertia: the epoch's centroids or one of several new starts. With a single start the
    score varies by chance: from 31 to 36 mIoU for one network (docs/research/log.md).
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
    """Return how many of `images` images `refit_prototypes` should use.

    128 images are enough for a small dataset, and a tenth of the images for a large one. If K is
    large, more are used, so that there are 64 cells per cluster at `cells` feature cells per
    image. The number never exceeds the images from which k-means samples its start.
    """
    options = config.cluster
    enough = max(_IMAGES, images // 10, _POINTS_PER_CLUSTER * options.k // cells)
    return min(images, options.init_batches * options.batch_size, enough)
