"""`picie clusters suggest-k`: suggest a number of clusters for the features of a run, without
labels.
"""

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

# takes a minute on one CPU core for K = 2..40; twice the points gave the same K on CamVid
_IMAGES, _POINTS = 256, 2**13
# k-means: one k-means++ start, in addition to the start from the tree
_RESTARTS, _STEPS, _HALVINGS = 1, 30, 4
_MAX_K = 500  # trying every K up to this takes hours
_STABLE = 0.9  # a K is stable if it has this fraction of the best stability
# silhouettes below this mean "no substantial structure" (Kaufman and Rousseeuw 1990)
_LOOSE = 0.25


@dataclass(frozen=True)
class Figures:
    """Quality of K clusters, see `picie.clustering.criteria`; `spread` is the standard deviation
    of the stability.
    """

    inertia: float
    silhouette: float
    calinski: float
    stability: float
    spread: float


@dataclass(frozen=True)
class Suggestion:
    """A recommended number of clusters.

    Attributes:
        k: the recommended number.
        ks: the numbers that were tried.
        figures: quality of each.
        reason: reason for the recommendation.
        limits: limitations of the recommendation.
    """

    k: int
    ks: tuple[int, ...]
    figures: tuple[Figures, ...]
    reason: str
    limits: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = [{"k": k, **asdict(figures)} for k, figures in zip(self.ks, self.figures, strict=True)]
        return {"k": self.k, "reason": self.reason, "limits": list(self.limits), "tried": rows}


def suggest_k(
    run: str | Path, smallest: int = 2, largest: int = 40, data: str | Path | None = None, device: str = "auto"
) -> Suggestion:
    """Cluster a sample of a run's features with each K from `smallest` to `largest`, and recommend
    one.

    Args:
        run: the run's folder or its checkpoint file; it is only read.
        smallest: smallest K, at least 2.
        largest: largest K.
        data: folder of images; None uses the training images.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        InputError: the run or the data does not exist, or there are too few images for this range.
    """
    if not 2 <= smallest <= largest <= _MAX_K:
        raise InputError(f"--from {smallest} --to {largest}: give numbers from 2 to {_MAX_K}, with the larger one as --to")
    segmenter = Segmenter.load(run, device)
    config, images = segmenter.config, training_images(segmenter.config.data, data)
    with Progress() as bars:
        sample = sample_predicted(segmenter, images, bars, _IMAGES, _POINTS)
        names, counts = np.unique(sample.images, return_counts=True)
        if len(names) < 4 or largest > np.sort(counts)[: len(names) // 2].sum():
            raise InputError(
                f"--to {largest}: {len(names)} images are too few, because each K is tried on half of them; "
                "use more images with --data DIR"
            )
        metric = config.cluster.kmeans_metric
        ks = range(smallest, largest + 1)
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
    """Measure the quality of the clusters of each K.

    Args:
        points: (n, D) features.
        images: (n,) the image of each point.
        ks: the numbers of clusters.
        metric: the metric of k-means.
        seed: random seed.
        advance: called with 1 after each K.
    """
    # key -1 is the tree of all points; the other keys are the trees of the halves
    trees: dict[int, WardTree] = {}

    def fit(k: int, part: Tensor, number: int) -> Tensor:
        if number not in trees:
            trees[number] = WardTree(part, derived_seed(seed, "tree", number))
        kmeans = KMeans(k, metric, _STEPS, seed=derived_seed(seed, "suggest", k, number), restarts=_RESTARTS)
        kmeans.start(part, kmeans.best_start(part, trees[number].starts(k)))
        return kmeans.centroids

    results = []
    for k in ks:
        clusters, squared = assign(points, fit(k, points, -1))
        values = stability(points, images, functools.partial(fit, k), _HALVINGS, derived_seed(seed, "halves"))
        separation = silhouette(points, clusters, k), calinski_harabasz(points, clusters, k)
        results.append(Figures(float(squared.mean()), *separation, float(values.mean()), float(values.std())))
        advance(1)
    return results


def recommend(ks: Sequence[int], figures: Sequence[Figures], trained_k: int | None) -> Suggestion:
    """Recommend the K with the highest silhouette among those whose clusters are stable.

    Args:
        ks: the numbers of clusters.
        figures: quality of each.
        trained_k: the K that the features were trained with, or None if they were not trained.
    """
    highest = max(f.stability for f in figures)
    stable = [i for i, f in enumerate(figures) if f.stability >= _STABLE * highest]
    best = max(stable, key=lambda i: figures[i].silhouette)
    chosen = figures[best]
    clear = chosen.silhouette >= _LOOSE
    reason = (
        f"{'recommended' if clear else 'no clear recommendation; the first choice'}: K = {ks[best]}. "
        f"It has the highest silhouette ({chosen.silhouette:.2f}) of the numbers "
        f"whose clusters are stable between halves of the images (ARI of at least {_STABLE:g} times the best, {highest:.2f})"
    )
    by_ratio = ks[int(torch.tensor([f.calinski for f in figures]).nan_to_num(-1).argmax())]
    by_silhouette = ks[max(range(len(ks)), key=lambda i: figures[i].silhouette)]
    limits = []
    if {by_ratio, by_silhouette} != {ks[best]}:
        limits.append(f"Calinski-Harabasz alone would suggest {by_ratio}, silhouette alone {by_silhouette}")
    if not clear:
        limits.append(f"the features form no clear groups (silhouette below {_LOOSE:g}), so K is a matter of preference")
    if len(ks) > 1 and best in {0, len(ks) - 1} and ks[best] > 2:
        limits.append("it is at the edge of the range: try a wider one with --from and --to")
    shaped = f", which were trained with K = {trained_k}" if trained_k is not None else ""
    limits.append(
        f"it counts groups of features{shaped}, not kinds of objects: rare and small objects share a cluster, varied ones "
        "take several; if something is missing, use more clusters and merge them by hand"
    )
    return Suggestion(ks[best], tuple(ks), tuple(figures), reason, tuple(limits))
