"""`picie name`: names and colours for a run's clusters, and other clusters from the same network, without training.

A run's checkpoint keeps them as its `naming`, beside what was trained, which stays as it is:

    clusters    None, or those in use instead of the trained ones: weight (K, D), bias (K,), centroids (K, D)
    segments    names, colors, assignment (K,) and user_defined, see `segments.py`
    matching    the evaluation that the trained clusters had, while others are in use
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie.clustering.kmeans import KMeans, bias
from picie.clustering.regrouping import WardTree, agglomerate, mean_centroids, split_clusters
from picie.errors import InputError
from picie.inference.sampling import Sample, classify, sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.inference.segments import Reference, Segments, joint_name, read_file, write_file
from picie.runtime import checkpoint
from picie.runtime.progress import Progress, log
from picie.runtime.rng import derived_seed

_RESTARTS, _STEPS = 8, 100  # of k-means


@dataclass(frozen=True)
class Changes:
    """What is to be changed, carried out in this order; all numbers and names mean the table as it was before.

    Attributes:
        reset: first forget all names and clusters of an earlier `picie name`.
        k: cluster the features anew; the names are gone then, and `names`, `splits` and `merges` cannot be given with it.
        file: take the segments from this file, see `segments.read_file`.
        names: segment -> (name, "#rrggbb"), where "" keeps what is there.
        splits: segment -> number of parts.
        merges: (segments, name, "#rrggbb") of each.
        merge_to: merge the most similar segments until so many are left.
    """

    reset: bool = False
    k: int | None = None
    file: Path | None = None
    names: Mapping[Reference, tuple[str, str]] = field(default_factory=dict)
    splits: Mapping[Reference, int] = field(default_factory=dict)
    merges: Sequence[tuple[Iterable[Reference], str, str]] = ()
    merge_to: int | None = None

    def check(self) -> None:
        """Raises `InputError` for changes that do not go together."""
        by_hand = bool(self.names or self.splits or self.merges)
        if self.k is not None and self.file is not None:
            raise InputError("--k makes new clusters, which --file has no names for; name them once you have seen them")
        if (self.k is not None or self.file is not None) and by_hand:
            what = "--k makes new clusters" if self.k is not None else "--file replaces all segments"
            raise InputError(f"{what}; look at them first (picie name RUN), then name, merge or split in another command")

    def __bool__(self) -> bool:
        return self != Changes()


def change(run: str | Path, changes: Changes, data: str | Path | None = None, device: str = "auto") -> None:
    """Carry out `changes` on a run and store them in it: all of them, or none.

    Args:
        run: a run's folder or checkpoint file.
        changes: what to change.
        data: images for `k` and `splits`; none: those that the run was trained on.
        device: where to compute.

    Raises:
        InputError: no such run, another picie at work on it, or changes that cannot be; the run is as it was.
    """
    changes.check()
    path = checkpoint.find_checkpoint(run)
    with checkpoint.exclusive(path.parent) as alone:
        if not alone:
            raise InputError(f"{run}: another picie is at work on this run; wait for it")
        state = checkpoint.load(path)
        edit = _Edit(checkpoint.without_naming(state) if changes.reset else state, data, device)
        edit.carry_out(changes)
        checkpoint.save(path, edit.result())


def write_names(run: str | Path, file: Path) -> None:
    """Write the segments of a run to `file`, for `Changes.file`. Raises `InputError` where there is no run."""
    state = checkpoint.load(run)
    segments = Segmenter.from_state(state, "cpu").segments
    write_file(file, segments, fingerprint(checkpoint.classifier_in_use(state)[0]))


def fingerprint(weight: Tensor) -> str:
    """What tells the clusters of `weight` (K, D) from others."""
    return hashlib.sha256(weight.detach().float().contiguous().numpy().tobytes()).hexdigest()[:16]


class _Edit:
    """A run's clusters and segments while they are being changed."""

    def __init__(self, state: dict[str, Any], data: str | Path | None, device: str) -> None:
        self.state, self.data = state, data
        self.segmenter = Segmenter.from_state(state, device)
        self.segments = self.segmenter.segments
        self.weight, self.bias = (part.clone() for part in checkpoint.classifier_in_use(state))
        self.centroids = checkpoint.centroids_in_use(state)
        self.seed = self.segmenter.config.seed
        self.metric = self.segmenter.config.cluster.kmeans_metric
        self.new_clusters = False
        self._sample: Sample | None = None

    def carry_out(self, changes: Changes) -> None:
        if changes.k is not None:
            self.recluster(changes.k)
        if changes.file is not None:
            self.segments = read_file(changes.file, len(self.weight), fingerprint(self.weight))
        before = self.segments
        if changes.names:
            self.segments = before.renamed(changes.names)
        splits = {before.find(reference): parts for reference, parts in changes.splits.items()}
        merges = [([before.find(r) for r in references], name, color) for references, name, color in changes.merges]
        both = set(splits) & {value for values, _, _ in merges for value in values}
        if both or len(splits) < len(changes.splits):
            twice = before.names[min(both)] if both else "a segment"
            raise InputError(f"{twice}: is to be split and merged, or split twice; do one after the other, in two commands")
        for value, parts in splits.items():
            self.split(value, parts)
        if merges:
            self.segments = self.segments.merged(merges)
        if changes.merge_to is not None:
            self.merge_to(changes.merge_to)
        self.segments.checked()

    def sample(self) -> Tensor:
        """(n, D) features of the run's images."""
        if self._sample is None:
            options, images = self.segmenter.config.cluster, training_images(self.segmenter.config.data, self.data)
            with Progress() as bars:
                most = options.init_batches * options.batch_size
                self._sample = sample_predicted(self.segmenter, images, bars, most, options.init_points)
        return self._sample.points

    def kmeans(self, points: Tensor, k: int, *purpose: int | str) -> Tensor:
        """(k, D) centroids of `points` (n, D), on the CPU: the best of several starts."""
        seed = derived_seed(self.seed, "name", *purpose)
        kmeans = KMeans(k, self.metric, _STEPS, seed=seed, restarts=_RESTARTS)
        kmeans.start(points, kmeans.best_start(points, WardTree(points, seed).starts(k)))
        return kmeans.centroids.cpu()

    def recluster(self, k: int) -> None:
        """`k` new clusters of whole images' features, without names."""
        if k < 2:
            raise InputError(f"--k {k}: give two clusters or more")
        points = self.sample()
        if k > len(points):
            raise InputError(f"--k {k}: clusters cannot be made of {len(points)} points; ask for fewer or give more images")
        if self.segments.user_defined:
            log.warning("the names given so far are gone with the clusters they were given to")
        self.centroids = self.weight = self.kmeans(points, k, k)
        euclidean = self.segmenter.config.cluster.metric == "euclidean"  # "mixed" predicts by the bare dot product
        self.bias = bias(self.weight) if euclidean else torch.zeros(len(self.weight))
        self.segments, self.new_clusters = Segments.plain(k), True

    def split(self, value: int, parts: int) -> None:
        """A segment in `parts`, by k-means on the features of its own pixels; the pixels of others stay where they are."""
        name, clusters = self.segments.names[value], self.segments.clusters(value)
        if parts < 2:
            raise InputError(f"--split {name}:{parts}: give two parts or more")
        points = self.sample()
        assigned, _ = classify(points, self.weight, self.bias)
        own = points[torch.isin(assigned, torch.tensor(clusters, device=assigned.device))]
        if len(own) < parts:
            raise InputError(f"--split {name}:{parts}: the sample of images holds {len(own)} points of it; ask for fewer parts")
        centroids = self.kmeans(own, parts, "split", *clusters, parts)
        try:
            parted = split_clusters(self.weight, self.bias, self.centroids, clusters, centroids)
        except ValueError as error:
            raise InputError(f"--split {name}:{parts}: is too fine after earlier splits; make new clusters with --k") from error
        self.weight, self.bias, self.centroids = parted[:3]
        self.segments = self.segments.split(value, parted[3], len(self.weight))
        self.new_clusters = True

    def merge_to(self, n: int) -> None:
        """Merge segments bottom up, those with the most similar centroids first, until `n` are left."""
        filled = sorted(set(self.segments.assignment))
        if not 2 <= n < len(filled):
            raise InputError(f"--merge-to {n}: the run has {len(filled)} segments; give a number from 2 to {len(filled) - 1}")
        kept = {old: new for new, old in enumerate(filled)}
        table = Segments(
            tuple(self.segments.names[v] for v in filled),
            tuple(self.segments.colors[v] for v in filled),
            tuple(kept[v] for v in self.segments.assignment),
            user_defined=True,
        )
        tree = agglomerate(mean_centroids(self.centroids, table.assignment, len(table), self.metric), n)
        groups = [np.flatnonzero(tree == group).tolist() for group in range(n)]
        self.segments = table.merged([(g, joint_name([table.names[v] for v in g]), "") for g in groups if len(g) > 1])

    def result(self) -> dict[str, Any]:
        """The checkpoint with these clusters and segments."""
        clusters = (self.state.get("naming") or {"clusters": None})["clusters"]
        trained, matching = checkpoint.without_naming(self.state).get("matching"), self.state.get("matching")
        if self.new_clusters:
            clusters, matching = {"weight": self.weight, "bias": self.bias, "centroids": self.centroids}, None
        if clusters is None and not self.segments.user_defined:
            return checkpoint.without_naming(self.state)
        naming = {"clusters": clusters, "segments": self.segments.state(), "matching": trained if clusters else None}
        return {**self.state, "matching": matching, "naming": naming}
