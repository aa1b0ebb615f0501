"""`picie clusters suggest-k`: how many clusters the features of a run fall into, judged without labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie.clustering.criteria import calinski_harabasz, silhouette, stability
from picie.clustering.kmeans import KMeans, Metric, assign
from picie.clustering.regrouping import WardTree
from picie.errors import InputError
from picie.inference.sampling import sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.runtime.progress import Progress
from picie.runtime.rng import derived_seed

_IMAGES, _POINTS = 256, 2**13  # a minute on one CPU core for K = 2..40; twice the points led to the same K on CamVid
_RESTARTS, _STEPS, _HALVINGS = 1, 30, 4  # a start of k-means++ beside that of the tree
_STABLE = 0.9  # of the best stability
_LOOSE = 0.25  # silhouettes below it are read as "no substantial structure" (Kaufman and Rousseeuw 1990)


@dataclass(frozen=True)
class Figures:
    """What K clusters come to: see `picie.clustering.criteria`; `spread` is the standard deviation of the stability."""

    inertia: float
    silhouette: float
    calinski: float
    stability: float
    spread: float


@dataclass(frozen=True)
class Suggestion:
    """A recommended number of clusters.

    Attributes:
        k: the number.
        ks: those tried.
        figures: of each.
        reason: why `k`, in words.
        limits: what that is not.
    """

    k: int
    ks: tuple[int, ...]
    figures: tuple[Figures, ...]
    reason: str
    limits: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [{"k": k, **asdict(figures)} for k, figures in zip(self.ks, self.figures, strict=True)]
        return {"k": self.k, "reason": self.reason, "limits": list(self.limits), "tried": rows}


def suggest_k(
    run: str | Path, least: int = 2, most: int = 40, data: str | Path | None = None, device: str = "auto"
) -> Suggestion:
    """Cluster a sample of a run's features into each of `least`..`most` clusters, and recommend one number.

    Args:
        run: a run's folder or checkpoint file; it is not changed.
        least: smallest K, 2 or more.
        most: largest K.
        data: a folder of images; none: those that the run was trained on.
        device: where to compute.

    Raises:
        InputError: no such run or data, or a range that cannot be tried on it.
    """
    if not 2 <= least <= most:
        raise InputError(f"--from {least} --to {most}: give 2 or more, and the larger number last")
    segmenter = Segmenter.load(run, device)
    config, images = segmenter.config, training_images(segmenter.config.data, data)
    with Progress() as bars:
        sample = sample_predicted(segmenter, images, bars, _IMAGES, _POINTS)
        names, counts = np.unique(sample.images, return_counts=True)
        if len(names) < 4 or most > np.sort(counts)[: len(names) // 2].sum():
            raise InputError(
                f"--to {most}: {len(names)} images are too few to try so many on half of them; give more, --data DIR"
            )
        metric = config.cluster.kmeans_metric
        ks = range(least, most + 1)
        with bars.bar("try K", len(ks)) as advance:
            figures = judge(sample.points, sample.images, ks, metric, config.seed, advance)
    return recommend(ks, figures, config.cluster.k if config.train.epochs else None)


def judge(
    points: Tensor,
    images: np.ndarray,
    ks: Sequence[int],
    metric: Metric,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Figures]:
    """What each of `ks` clusters of `points` (n, D) come to; `images` (n,) says which image each point is from."""
    trees: dict[int, WardTree] = {}  # of all points, -1, and of each half

    def fit(k: int, part: Tensor, number: int) -> Tensor:
        if number not in trees:
            trees[number] = WardTree(part, derived_seed(seed, "tree", number))
        kmeans = KMeans(k, metric, _STEPS, seed=derived_seed(seed, "suggest", k, number), restarts=_RESTARTS)
        kmeans.start(part, kmeans.best_start(part, trees[number].starts(k)))
        return kmeans.centroids

    found = []
    for k in ks:
        clusters, squared = assign(points, fit(k, points, -1))
        values = stability(points, images, functools.partial(fit, k), _HALVINGS, derived_seed(seed, "halves"))
        alike = silhouette(points, clusters, k), calinski_harabasz(points, clusters, k)
        found.append(Figures(float(squared.mean()), *alike, float(values.mean()), float(values.std())))
        advance(1)
    return found


def recommend(ks: Sequence[int], figures: Sequence[Figures], trained_k: int | None) -> Suggestion:
    """Of the numbers whose clusters come back on other images, the one whose clusters stand apart most clearly.

    `trained_k`: the K that the features were trained with, None if they were not.
    """
    stable = max(f.stability for f in figures)
    steady = [i for i, f in enumerate(figures) if f.stability >= _STABLE * stable]
    best = max(steady, key=lambda i: figures[i].silhouette)
    own = figures[best]
    reason = (
        f"recommended: K = {ks[best]}: of the {len(steady)} numbers whose clusters come back from either half of the images "
        f"(ARI at least {_STABLE:g} of the best, {stable:.2f}) it has the highest silhouette, {own.silhouette:.2f}"
    )
    ratio = ks[int(torch.tensor([f.calinski for f in figures]).nan_to_num(-1).argmax())]
    alone = ks[max(range(len(ks)), key=lambda i: figures[i].silhouette)]
    limits = [f"Calinski-Harabasz alone would say {ratio}, silhouette alone {alone}" if {ratio, alone} != {ks[best]} else ""]
    if own.silhouette < _LOOSE:
        limits.append(f"these features fall into no clear groups (silhouette below {_LOOSE:g}): take K as a matter of taste")
    if len(ks) > 1 and best in {0, len(ks) - 1} and ks[best] > 2:
        limits.append("it is the edge of what was tried: widen --from and --to")
    shaped = f", which training with K = {trained_k} has shaped" if trained_k is not None else ""
    limits.append(
        f"it counts groups of features{shaped}, not kinds of things: rare and small "
        "things share a cluster, varied ones take several; ask for more clusters and merge them by eye if you miss something"
    )
    return Suggestion(ks[best], tuple(ks), tuple(figures), reason, tuple(filter(None, limits)))
