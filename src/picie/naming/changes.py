"""`picie name`: names and colours for a run's clusters, and new clusters from the same network.

The checkpoint stores them in its entry `naming`; the trained clusters are not changed:

    clusters    None, or the clusters used instead of the trained ones: weight (K, D), bias (K,)
                and centroids (K, D)
    segments    names, colors, assignment (K,) and user_defined, see
                `picie.inference.segments`
    matching    the matching of the trained clusters, while other clusters are used
    taught      None, or the number of clicks of each class, if the clusters are classes that
                `picie teach` fitted

`picie.naming.history` undoes changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie.clustering.kmeans import KMeans, bias
from picie.clustering.regrouping import WardTree, agglomerate, mean_centroids, split_clusters
from picie.errors import InputError
from picie.inference.sampling import classify, sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.inference.segments import Reference, Segments, joint_name, read_file, write_file
from picie.naming import history
from picie.runtime import checkpoint
from picie.runtime.progress import Progress, log
from picie.runtime.rng import derived_seed

_RESTARTS, _STEPS = 8, 100  # k-means initialisations, and maximum number of steps of each
MAX_CLUSTERS = 4096  # maximum number of new clusters; k-means takes minutes for so many


@dataclass(frozen=True)
class Changes:
    """Changes to the segments of a run, in the order in which they are applied.

    Segments are given by name or by the number of one of their clusters; both refer to the table
    before any change. A merge that was made before is not an error, so a command can be repeated.

    Attributes:
        reset: remove all names and clusters of earlier changes.
        k: cluster the features again into `k` clusters. This removes the names, so it cannot be
            combined with `names`, `splits` or `merges`.
        file: read the segments from this file, see `picie.inference.segments.read_file`.
        names: maps a segment to (name, "#rrggbb"); "" keeps the current name or colour.
        splits: maps a segment to the number of parts that it is split into.
        merges: groups of segments to merge, each as (segments, name, "#rrggbb").
        merge_to: merge the most similar segments until this number remains.
    """

    reset: bool = False
    k: int | None = None
    file: Path | None = None
    names: Mapping[Reference, tuple[str, str]] = field(default_factory=dict)
    splits: Mapping[Reference, int] = field(default_factory=dict)
    merges: Sequence[tuple[Iterable[Reference], str, str]] = ()
    merge_to: int | None = None

    def check(self) -> None:
        """Raise `InputError` for changes that cannot be combined."""
        by_hand = bool(self.names or self.splits or self.merges)
        if self.k is not None and self.file is not None:
            raise InputError("--k makes new clusters, and --file has no names for them; name them in another command")
        if (self.k is not None or self.file is not None) and by_hand:
            what = "--k makes new clusters" if self.k is not None else "--file replaces all segments"
            raise InputError(f"{what}; look at them first (picie name RUN), then name, merge or split them in another command")

    def __bool__(self) -> bool:
        return any(value not in (None, False) and value not in ({}, [], ()) for value in vars(self).values())


def change(
    run: str | Path,
    changes: Changes,
    data: str | Path | None = None,
    device: str = "auto",
    sample: Callable[[], Tensor] | None = None,
) -> None:
    """Apply `changes` to a run and store them in its checkpoint: either all of them, or none.

    `picie.naming.history.undo` takes them back.

    Args:
        run: the run's folder or its checkpoint file.
        changes: the changes.
        data: folder of images for `k` and `splits`; None uses the training images.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        sample: returns (n, D) unit-norm features of the run's network for `k` and `splits`, see
            `sample_features`; None computes them from the images.

    Raises:
        InputError: the run does not exist, another process is using it, or a change is not
            possible. The run is not modified.
    """
    changes.check()
    with checkpoint.changing(run) as (path, state):
        edit = _Edit(checkpoint.without_naming(state) if changes.reset else state, data, device, sample)
        what = _in_words(changes, edit.segments)
        edit.apply(changes)
        checkpoint.save(path, history.remember(state, edit.result(), what))


def sample_features(segmenter: Segmenter, data: str | Path | None = None) -> Tensor:
    """Return (n, D) unit-norm features of cells of the run's images, for `change`.

    They depend on the run's network and images only.

    Args:
        segmenter: computes them.
        data: folder of images; None uses the training images.

    Raises:
        InputError: the images do not exist.
    """
    options, images = segmenter.config.cluster, training_images(segmenter.config.data, data)
    with Progress() as bars:
        return sample_predicted(segmenter, images, bars, options.init_batches * options.batch_size, options.init_points).points


def _in_words(changes: Changes, segments: Segments) -> str:
    """Describe `changes` of `segments` in a few words, for the user who may undo them."""

    def old(reference: Reference) -> str:
        text = str(reference).strip()
        return segments.names[segments.find(text)] if changes.k is None and changes.file is None else text

    parts = ["the return to the trained clusters"] if changes.reset else []
    parts += [f"{changes.k} new clusters"] if changes.k is not None else []
    parts += [f"the names of {changes.file.name}"] if changes.file is not None else []
    parts += [f"the name {name}" if name else f"the colour of {old(one)}" for one, (name, _) in changes.names.items()]
    parts += [f"the split of {old(one)} into {n}" for one, n in changes.splits.items()]
    parts += [f"the merge into {name or old(next(iter(listed)))}" for listed, name, _ in changes.merges]
    parts += [f"the merge to {changes.merge_to} segments"] if changes.merge_to is not None else []
    return ", ".join(parts)


def write_names(run: str | Path, file: Path) -> None:
    """Write the segments of a run to `file`, for `Changes.file`.

    Raises `InputError` if there is no such run.
    """
    state = checkpoint.load(run)
    segments = Segmenter.from_state(state, "cpu").segments
    write_file(file, segments, checkpoint.classifier_fingerprint(checkpoint.classifier_in_use(state)))


def _segments_to_merge(segments: Segments, references: Iterable[Reference]) -> list[int]:
    """The values of the segments to merge; a single value if they are already merged.

    Raises `InputError` for fewer than two segments.
    """
    listed = list(dict.fromkeys(str(reference).strip() for reference in references))
    values = list(dict.fromkeys(map(segments.find, listed)))
    if len(values) == 1 and (len(listed) < 2 or len(segments.clusters(values[0])) < 2):
        raise InputError(f"--merge {','.join(listed)}: give at least two segments")
    return values


class _Edit:
    """The clusters and segments of a run while they are changed."""

    def __init__(
        self, state: dict[str, Any], data: str | Path | None, device: str, sample: Callable[[], Tensor] | None
    ) -> None:
        self.state = state
        self.segmenter = Segmenter.from_state(state, device)
        self.sample = cache(sample or partial(sample_features, self.segmenter, data))
        self.segments = self.segmenter.segments
        self.weight, self.bias = (part.clone() for part in checkpoint.classifier_in_use(state))
        self.centroids = checkpoint.centroids_in_use(state)
        self.seed = self.segmenter.config.seed
        self.metric = self.segmenter.config.cluster.kmeans_metric
        self.new_clusters, self.reclustered = False, False

    def apply(self, changes: Changes) -> None:
        if changes.k is not None:
            self.recluster(changes.k)
        if changes.file is not None:
            clusters = checkpoint.classifier_fingerprint((self.weight, self.bias))
            self.segments = read_file(changes.file, len(self.weight), clusters)
        before = self.segments
        names = {before.find(reference): change for reference, change in changes.names.items()}
        if len(names) < len(changes.names):
            raise InputError(f"{', '.join(map(str, changes.names))}: name each segment once")
        splits = {before.find(reference): parts for reference, parts in changes.splits.items()}
        merges = []
        for references, name, color in changes.merges:
            values = _segments_to_merge(before, references)
            if len(values) > 1:
                merges.append((values, name, color))
            else:  # already merged by an earlier run of the same command
                names.setdefault(values[0], (name, color))
        if names:
            self.segments = before.renamed(names)
        conflicts = set(splits) & {value for values, _, _ in merges for value in values}
        if conflicts or len(splits) < len(changes.splits):
            name = before.names[min(conflicts)] if conflicts else "a segment"
            raise InputError(f"{name}: cannot be split twice, or split and merged, in one command; use two commands")
        for value, parts in splits.items():
            self.split(value, parts)
        if merges:
            self.segments = self.segments.merged(merges)
        if changes.merge_to is not None:
            self.merge_to(changes.merge_to)
        self.segments.checked()

    def kmeans(self, points: Tensor, k: int, *purpose: int | str) -> Tensor:
        """(k, D) centroids of `points` (n, D) on the CPU, the best of several initialisations."""
        seed = derived_seed(self.seed, "name", *purpose)
        kmeans = KMeans(k, self.metric, _STEPS, seed=seed, restarts=_RESTARTS)
        kmeans.start(points, kmeans.best_start(points, WardTree(points, seed).starts(k)))
        return kmeans.centroids.cpu()

    def recluster(self, k: int) -> None:
        """Cluster the features of whole images into `k` new clusters without names."""
        if not 2 <= k <= MAX_CLUSTERS:
            raise InputError(f"--k {k}: give a number from 2 to {MAX_CLUSTERS}")
        points = self.sample()
        if k > len(points):
            raise InputError(f"--k {k}: the images give only {len(points)} points; use a smaller K or more images")
        if self.segments.user_defined:
            log.warning("the names of the earlier clusters were removed")
        self.centroids = self.weight = self.kmeans(points, k, k)
        # "mixed" predicts with the plain dot product
        euclidean = self.segmenter.config.cluster.metric == "euclidean"
        self.bias = bias(self.weight) if euclidean else torch.zeros(len(self.weight))
        self.segments, self.new_clusters, self.reclustered = Segments.plain(k), True, True

    def split(self, value: int, parts: int) -> None:
        """Split a segment into `parts` by k-means on the features of its pixels.

        Other segments keep their pixels.
        """
        name, clusters = self.segments.names[value], self.segments.clusters(value)
        if not 2 <= parts <= MAX_CLUSTERS:
            raise InputError(f"--split {name}:{parts}: give a number of parts from 2 to {MAX_CLUSTERS}")
        points = self.sample()
        assigned, _ = classify(points, self.weight, self.bias)
        members = points[torch.isin(assigned, torch.tensor(clusters, device=assigned.device))]
        if len(members) < parts:
            raise InputError(f"--split {name}:{parts}: only {len(members)} sampled points belong to it; use fewer parts")
        centroids = self.kmeans(members, parts, "split", *clusters, parts)
        try:
            new = split_clusters(self.weight, self.bias, self.centroids, clusters, centroids)
        except ValueError as error:
            raise InputError(
                f"--split {name}:{parts}: cannot be split further after earlier splits; make new clusters with --k"
            ) from error
        self.weight, self.bias, self.centroids = new[:3]
        self.segments = self.segments.split(value, new[3], len(self.weight))
        self.new_clusters = True

    def merge_to(self, n: int) -> None:
        """Merge the segments with the most similar centroids, one pair at a time, until `n`
        remain.
        """
        filled = sorted(set(self.segments.assignment))
        if not 2 <= n < len(filled):
            raise InputError(f"--merge-to {n}: the run has {len(filled)} segments; give a number from 2 to {len(filled) - 1}")
        renumbered = {old: new for new, old in enumerate(filled)}
        table = Segments(
            tuple(self.segments.names[v] for v in filled),
            tuple(self.segments.colors[v] for v in filled),
            tuple(renumbered[v] for v in self.segments.assignment),
            user_defined=True,
        )
        tree = agglomerate(mean_centroids(self.centroids, table.assignment, len(table), self.metric), n)
        groups = [np.flatnonzero(tree == group).tolist() for group in range(n)]
        self.segments = table.merged([(g, joint_name([table.names[v] for v in g]), "") for g in groups if len(g) > 1])

    def result(self) -> dict[str, Any]:
        """The checkpoint with the changed clusters and segments."""
        clusters = (self.state.get("naming") or {"clusters": None})["clusters"]
        trained, matching = checkpoint.without_naming(self.state).get("matching"), self.state.get("matching")
        if self.new_clusters:
            clusters, matching = {"weight": self.weight, "bias": self.bias, "centroids": self.centroids}, None
        if clusters is None and not self.segments.user_defined:
            return checkpoint.without_naming(self.state)
        naming = {"clusters": clusters, "segments": self.segments.state(), "matching": trained if clusters else None}
        taught = checkpoint.taught_clicks(self.state)
        if taught is not None and not self.reclustered:
            naming["taught"] = taught
        return {**self.state, "matching": matching, "naming": naming}
