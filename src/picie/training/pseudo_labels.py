"""Pseudo-labels: cluster the features of each view, then label every cell (paper, section 3.1).

    pass 1: z = method.view_features(...), each cell at norm 1; k-means starts from the first
            batches, and later batches update its centroids
    pass 2: store[head and view, image] = nearest centroid of each cell; counts -> class weights

With `cluster.smooth` neighbouring cells share their cluster in both passes (`smoothed_kmeans`), and
pass 1 takes the first batches only.

Both passes use the same draws as the epoch's training pass, so a label belongs to the crop that is
trained on. Both use the same batches, so that features cached by pass 1 equal, bit for bit, those
that pass 2 would compute. A head is a number of clusters: K and, for PiCIE+H, K2. Heads share the
features and the sample from which k-means starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.cluster_stats import ClusterStats
from picie.clustering.kmeans import KMeans, assign
from picie.clustering.point_sample import PointSample, points_of
from picie.clustering.smoothed_kmeans import Map, Smoothing, smoothed_assign, smoothed_lloyd
from picie.config import ClusterConfig
from picie.data.loading import split_batches
from picie.runtime.profiling import stage
from picie.runtime.rng import derived_seed
from picie.training.feature_source import FeatureSource
from picie.training.label_store import PseudoLabelStore
from picie.training.prototype_refit import first_images, refit_images

_STEPS = 5  # iterations of an epoch's smoothed k-means, which goes on from earlier centroids


@dataclass(frozen=True)
class Clustering:
    """The result of an epoch's clustering for one head.

    Attributes:
        centroids: (V, K, D).
        counts: (V, K) int64 number of cells in each cluster.
        inertia: per view, mean squared distance of a cell to its centroid.
        imbalance: per view, K times the sum of squared shares.
        empty: per view, number of clusters without a cell.
    """

    centroids: Tensor
    counts: Tensor
    inertia: list[float]
    imbalance: list[float]
    empty: list[int]


def generate_pseudo_labels(
    source: FeatureSource, epoch: int, store: PseudoLabelStore, advance: Callable[[str, int], None]
) -> dict[str, Clustering]:
    """Cluster the features of every view and write the pseudo-labels to `store`.

    Args:
        source: images and features.
        epoch: the epoch whose draws are used.
        store: receives the labels.
        advance: called with "cluster" or "label" and the number of images that were just processed.

    Returns:
        The clustering of each head, by the head's prefix.
    """
    batches = split_batches(source.order(epoch, "cluster"), source.config.cluster.batch_size)
    smoothing = source.smoothing
    with stage("cluster"):
        if smoothing is None:
            heads = _cluster(source, epoch, batches, lambda n: advance("cluster", n))
        else:
            some = first_images(batches, refit_images(source.config, len(source.indices), store.cells))
            heads = _cluster_smoothed(source, epoch, some, smoothing, lambda n: advance("cluster", n))
    with stage("label"):
        return _label(source, epoch, batches, store, heads, lambda n: advance("label", n))


def _label(
    source: FeatureSource,
    epoch: int,
    batches: Sequence[np.ndarray],
    store: PseudoLabelStore,
    heads: Sequence[Sequence[Tensor]],
    advance: Callable[[int], None],
) -> dict[str, Clustering]:
    """Pass 2: label every cell by the nearest centroid, for each head and view."""
    smoothing = source.smoothing
    tallies = [[ClusterStats(len(centroids)) for centroids in head] for head in heads]
    source.method.eval()
    with source.folded():
        for batch, views, view, z in source.view_features(batches, epoch, fill_cache=smoothing is not None):
            with stage("assign"):
                for i, head in enumerate(heads):
                    if smoothing is None:
                        clusters, distances = assign(points_of(z), head[view], unit=True)
                    else:
                        guide = views.guide((z.shape[2], z.shape[3]))
                        clusters, distances = smoothed_assign(z, guide, head[view], smoothing)
                    store.write(i * len(head) + view, batch, clusters.view(z.shape[0], z.shape[2], z.shape[3]))
                    tallies[i][view].add(clusters, distances)
            if view == 0:
                advance(len(batch))
    store.flush()
    for tally in (tally for head in tallies for tally in head):
        tally.add_others()
    found = zip(source.config.cluster.heads, heads, tallies, strict=True)
    return {prefix: _clustering(head, counted) for prefix, head, counted in found}


def _clustering(centroids: Sequence[Tensor], tallies: Sequence[ClusterStats]) -> Clustering:
    return Clustering(
        centroids=torch.stack(list(centroids)),
        counts=torch.stack([tally.counts for tally in tallies]),
        inertia=[tally.inertia for tally in tallies],
        imbalance=[tally.imbalance for tally in tallies],
        empty=[tally.empty for tally in tallies],
    )


def _cluster(
    source: FeatureSource, epoch: int, batches: Sequence[np.ndarray], advance: Callable[[int], None]
) -> list[list[Tensor]]:
    """Pass 1: run one k-means for each head and view. Returns (K, D) centroids."""
    config, method = source.config, source.method
    options, views = config.cluster, range(method.views)
    heads = [
        [_kmeans(options, k, derived_seed(config.seed, epoch, f"{prefix}kmeans", view)) for view in views]
        for prefix, k in options.heads.items()
    ]
    n_start = min(options.init_batches, len(batches))
    samples = [PointSample(options.init_points, n_start, kmeans.seed) for kmeans in heads[0]]
    method.train(options.batchnorm == "train")
    done = [0] * method.views
    with source.folded():
        for batch, _, view, z in source.view_features(batches, epoch, fill_cache=True):
            with stage("k-means"):
                points = points_of(z)
                if done[view] < n_start:
                    samples[view].add(points)
                else:
                    points = F.normalize(points.float(), dim=1)
                    for head in heads:
                        head[view].update(points)
                done[view] += 1
                if done[view] == n_start:
                    sample, weight = samples[view].take()
                    for head, (last, _) in zip(heads, method.heads, strict=True):
                        head[view].start(sample, _warm(options, last[view]), weight)
            if view == 0:
                advance(len(batch))
    return [[kmeans.centroids for kmeans in head] for head in heads]


def _cluster_smoothed(
    source: FeatureSource, epoch: int, batches: Sequence[np.ndarray], smoothing: Smoothing, advance: Callable[[int], None]
) -> list[list[Tensor]]:
    """Pass 1 with `cluster.smooth`: run k-means on the features of `batches`, which are in memory."""
    config, method = source.config, source.method
    options = config.cluster
    maps: list[list[Map]] = [[] for _ in range(method.views)]
    method.train(options.batchnorm == "train")
    with source.folded():
        for batch, views, view, z in source.view_features(batches, epoch, fill_cache=True):
            maps[view].append((z, views.guide((z.shape[2], z.shape[3]))))
            if view == 0:
                advance(len(batch))
    heads: list[list[Tensor]] = []
    with stage("k-means"):
        for (prefix, k), (last, _) in zip(options.heads.items(), method.heads, strict=True):
            heads.append([])
            for view in range(method.views):
                centroids = _warm(options, last[view])
                if centroids is None:
                    centroids = _new_start(options, k, derived_seed(config.seed, epoch, f"{prefix}kmeans", view), maps[view])
                heads[-1].append(
                    smoothed_lloyd(maps[view], centroids, _STEPS, options.kmeans_metric, smoothing, options.reseed)
                )
    return heads


def _new_start(options: ClusterConfig, k: int, seed: int, maps: Sequence[Map]) -> Tensor:
    """Return (K, D) centroids of features `maps`, clustered cell by cell."""
    sample = PointSample(options.init_points, len(maps), seed)
    for z, _ in maps:
        sample.add(points_of(z))
    kmeans = _kmeans(options, k, seed)
    kmeans.start(sample.take()[0])
    return kmeans.centroids


def _warm(options: ClusterConfig, last: Tensor) -> Tensor | None:
    """Return the latest centroids (K, D), or None if k-means starts anew."""
    return last if options.warm_start and bool(last.any()) else None


def _kmeans(options: ClusterConfig, k: int, seed: int) -> KMeans:
    return KMeans(k, options.kmeans_metric, options.lloyd_steps, options.reseed, seed)
