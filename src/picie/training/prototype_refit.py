"""The clusters that predict: whole images, clustered under the trained network."""

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

_IMAGES = 128  # CamVid, two networks, four choices each: 64, 96, 128 and 320 images score the same (docs/log.md)
_POINTS_PER_CLUSTER = 2**6


@torch.no_grad()
def refit_prototypes(source: FeatureSource, n: int, advance: Callable[[int], None]) -> Tensor:
    """(K, D) centroids of `n` whole, unaltered images under the network as it is now.

    The epoch's centroids are those of cropped and recoloured views under the network before its training pass. Here images are
    clustered as prediction will meet them, from the best (by inertia) of the epoch's centroids and new starts: one start
    alone leaves the score to chance (31 to 36 mIoU from one network, docs/log.md).
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
    """How many of so many `images` of so many feature `cells` `refit_prototypes` is to take.

    128 are enough for a small dataset, of a large one a tenth, but as many as K needs; never more than give the clustering its
    start.
    """
    options = config.cluster
    enough = max(_IMAGES, images // 10, _POINTS_PER_CLUSTER * options.k // cells)
    return min(images, options.init_batches * options.batch_size, enough)
