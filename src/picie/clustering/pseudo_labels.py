"""Where pseudo-labels are made: cluster the features of each view, then label every cell (paper, section 3.1; METHOD 2).

    pass 1: z = method.features(...); the first batches give k-means its start, later ones move its centroids
    pass 2: store[head and view, image] = nearest centroid of each cell; counts -> class weights, statistics

Both passes ask for the same draws as the training pass of the epoch, so a label belongs to the very crop that is trained on.
Both go by the same batches, so that what pass 1 made can be kept for pass 2 and is, to the bit, what pass 2 would make.
A head is a number of clusters: K and, for PiCIE+H, K2. Heads share the features and the sample that k-means starts from.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie import processes
from picie.clustering.kmeans import KMeans, Tally, assign
from picie.config import Config
from picie.data.loading import split_batches
from picie.errors import InputError
from picie.features import FeatureSource
from picie.stages import stage
from picie.transfer import sent
from picie.views.draws import derived_seed

_REFIT_IMAGES = 128  # CamVid, two networks, four choices each: 64, 96, 128 and 320 images all score the same (docs/log.md)
_NEEDED = "is needed to go on within an epoch,"


class PseudoLabelStore:
    """The pseudo-labels of an epoch in one memory-mapped .npy file: (M, N, h, w), uint8, or uint16 where K > 256.

    M is views times heads: the first head's views, then the second's. Of several processes the main one writes, for pages of a
    file on a network are no place to write together. The others read the file: all machines must share the folder.

    Args:
        path: the file.
        shape: (M, N, h, w).
        k: number of clusters, the largest of any head.
        keep: open the labels that are there, for an epoch that was begun; otherwise begin a new file.

    Raises:
        InputError: `keep`, and there is no such file of this shape.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], k: int, keep: bool = False) -> None:
        self._path, self._dtype = path, np.dtype(np.uint8 if k <= 256 else np.uint16)
        if not keep:
            if processes.is_main():
                self._map = np.lib.format.open_memmap(path, mode="w+", dtype=self._dtype, shape=shape)
            return
        try:
            np.lib.format.open_memmap(path, mode="r")  # refuses a file cut short, which "r+" would lengthen with zeros
            self._map = np.lib.format.open_memmap(path, mode="r+" if processes.is_main() else "r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: {_NEEDED} but cannot be read; put it back or train anew") from error
        if self._map.shape != shape or self._map.dtype != self._dtype:
            raise InputError(f"{path}: {_NEEDED} but belongs to another run; put the right one back or train anew")

    def write(self, row: int, indices: np.ndarray, labels: Tensor) -> None:
        """Store `labels` (B, h, w) of the images `indices` as the row-th of the M; of several processes each brings its own."""
        for theirs, values in processes.to_main((indices, labels.cpu().numpy().astype(self._dtype))):
            self._map[row, theirs] = values
            self._release()

    def read(self, indices: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """(M, B, h, w) int64 labels of the images `indices`, on `device`."""
        stored = torch.from_numpy(self._map[:, indices])
        self._release()
        if torch.device(device).type == "cuda":
            stored = stored.pin_memory()
        return sent(stored, device).long()

    def _release(self) -> None:
        """Let go of the pages at hand, which the file's cache keeps: else memory would grow with the images."""
        self._map._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def flush(self) -> None:
        """Hand everything written to the operating system's care; from then on every process can read it."""
        if processes.is_main():
            self._map.flush()
        processes.meet()
        if not processes.is_main():
            self._map = self._open_for_reading()

    def _open_for_reading(self) -> np.memmap[Any, Any]:
        try:
            return np.lib.format.open_memmap(self._path, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self._path}: cannot be read by every process of the run; give an --out that all its machines share"
            ) from error


@dataclass(frozen=True)
class Clustering:
    """What clustering an epoch gave one head.

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
    source: FeatureSource, epoch: int, store: PseudoLabelStore, advance: Callable[[str, int], None]
) -> dict[str, Clustering]:
    """Cluster the features of every view of the images of `source` and write their pseudo-labels to `store`.

    Args:
        source: images and features.
        epoch: the epoch whose draws are used.
        store: takes the labels.
        advance: called as (stage, images) with stage "cluster" or "label" and the number of images just done.

    Returns:
        What it gave each head, by the head's prefix.
    """
    batches = split_batches(source.order(epoch, "cluster"), source.config.cluster.batch_size)
    with stage("cluster"):
        heads = _cluster(source, epoch, batches, lambda n: advance("cluster", n))
    with stage("label"):
        return _label(source, epoch, batches, store, heads, lambda n: advance("label", n))


def _label(
    source: FeatureSource,
    epoch: int,
    batches: Sequence[np.ndarray],
    store: PseudoLabelStore,
    heads: Sequence[Sequence[KMeans]],
    advance: Callable[[int], None],
) -> dict[str, Clustering]:
    """Pass 2: the label of every cell, by the centroids found, of each head and view."""
    tallies = [[Tally(kmeans.k) for kmeans in head] for head in heads]
    source.method.eval()
    for batch, view, z in source.view_features(batches, epoch):
        points = _points(z)
        with stage("assign"):
            for i, head in enumerate(heads):
                clusters, distances = assign(points, head[view].centroids)
                store.write(i * len(head) + view, batch, clusters.view(z.shape[0], z.shape[2], z.shape[3]))
                tallies[i][view].add(clusters, distances)
        if view == 0:
            advance(len(batch))
    store.flush()
    for tally in (tally for head in tallies for tally in head):
        tally.add_others()
    found = zip(source.config.cluster.heads, heads, tallies, strict=True)
    return {prefix: _clustering(head, counted) for prefix, head, counted in found}


def _clustering(kmeans: Sequence[KMeans], tallies: Sequence[Tally]) -> Clustering:
    return Clustering(
        centroids=torch.stack([k.centroids for k in kmeans]),
        counts=torch.stack([tally.counts for tally in tallies]),
        objective=[tally.objective for tally in tallies],
        imbalance=[tally.imbalance for tally in tallies],
        empty=[tally.empty for tally in tallies],
    )


def _cluster(
    source: FeatureSource, epoch: int, batches: Sequence[np.ndarray], advance: Callable[[int], None]
) -> list[list[KMeans]]:
    """Pass 1: for each head one k-means a view, its centroids found."""
    config, method = source.config, source.method
    options, views = config.cluster, range(method.views)
    heads = [
        [_kmeans(config, k, derived_seed(config.seed, epoch, f"{prefix}kmeans", view)) for view in views]
        for prefix, k in options.heads.items()
    ]
    n_start = min(options.init_batches, len(batches))
    samples = [_Sample(options.init_points, n_start, kmeans.seed) for kmeans in heads[0]]
    method.train(options.batchnorm == "train")
    done = [0] * method.views
    for batch, view, z in source.view_features(batches, epoch, leave=True):
        with stage("k-means"):
            points = _points(z)
            if done[view] < n_start:
                samples[view].add(points)
            else:
                for head in heads:
                    head[view].update(points)
            done[view] += 1
            if done[view] == n_start:
                sample, weight = samples[view].take()
                for head, (last, _) in zip(heads, method.heads, strict=True):
                    warm = last[view] if options.warm_start and epoch > 0 else None
                    head[view].start(sample, warm, weight)
        if view == 0:
            advance(len(batch))
    return heads


@torch.no_grad()
def refit_prototypes(source: FeatureSource, advance: Callable[[int], None]) -> Tensor:
    """(K, D) centroids of whole, unaltered images under the network as it is now: what prediction will meet.

    The epoch's centroids are those of cropped and recoloured views under the network before its training pass. Here images are
    clustered as they are, from the best (by objective) of the epoch's centroids and new starts: one start alone leaves the score
    to chance (31 to 36 mIoU from one network, docs/log.md). Of small datasets 128 images are enough, of large ones a tenth, and
    never more than give the clustering its start.
    """
    config, method = source.config, source.method
    options = config.cluster
    n = min(options.init_batches * options.batch_size, max(_REFIT_IMAGES, len(source.indices) // 10))
    batches = split_batches(source.order("refit")[:n], options.batch_size)
    seed = derived_seed(config.seed, "refit")
    sample = _Sample(options.init_points, len(batches), seed)
    method.eval()
    for batch, images in source.whole_images(batches):
        with stage("forward"):
            z = method.network(images)
        with stage("features"):
            sample.add(_points(F.normalize(z, dim=1)))
        advance(len(batch))
    with stage("k-means"):
        points, _ = sample.take()
        kmeans = _kmeans(config, options.k, seed, options.refit)
        kmeans.start(points, kmeans.best_start(points, list(method.centroids)))
    return kmeans.centroids


def start_points(config: Config, images: int, cells: int) -> int:
    """How many points k-means starts from, given so many `images` of so many feature `cells`; K must not be more."""
    options = config.cluster
    batches = split_batches(np.arange(images), options.batch_size)[: options.init_batches]
    share = _share(options.init_points, len(batches)) if batches else 0
    return sum(min(share, len(batch) * cells) for batch in batches)


def _kmeans(config: Config, k: int, seed: int, restarts: int = 1) -> KMeans:
    options = config.cluster
    return KMeans(k, options.kmeans_metric, options.lloyd_steps, options.reseed, seed, restarts)


def _points(z: Tensor) -> Tensor:
    """(B * h * w, D) of features (B, D, h, w)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def _share(size: int, n_batches: int) -> int:
    return -(-size // n_batches)


class _Sample:
    """A bounded sample of points: an equal, random share of each of `n_batches` batches.

    Of several processes each adds its part of a batch. The points are picked, and stand, as if one had it all.
    """

    def __init__(self, size: int, n_batches: int, seed: int) -> None:
        self._most = _share(size, n_batches)
        self._generator = torch.Generator().manual_seed(seed)
        self._parts: list[Tensor] = []
        self._places: list[Tensor] = []  # of the parts' points in the sample
        self._size, self._seen = 0, 0

    def add(self, points: Tensor) -> None:
        sizes = processes.gathered(len(points))
        before, n = sum(sizes[: processes.rank()]), sum(sizes)
        picked = torch.arange(n) if n <= self._most else torch.randperm(n, generator=self._generator)[: self._most]
        own = ((picked >= before) & (picked < before + len(points))).nonzero()[:, 0]
        self._parts.append(points if n <= self._most else points[(picked[own] - before).to(points.device)])
        self._places.append(self._size + own)
        self._size, self._seen = self._size + len(picked), self._seen + n

    def take(self) -> tuple[Tensor, float]:
        """The sample, and the number of points that each of its points stands for."""
        sample = torch.cat(self._parts)
        if processes.count() > 1:  # each place is filled by one process, and 0 in the others
            whole = sample.new_zeros(self._size, sample.shape[1])
            whole[torch.cat(self._places).to(sample.device)] = sample
            sample = processes.total(whole)
        self._parts, self._places = [], []
        return sample, self._seen / len(sample)
