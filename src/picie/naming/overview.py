"""Overview of the segments of a run: names, colours, shares of the pixels and similarities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from picie.clustering.regrouping import mean_centroids
from picie.errors import InputError
from picie.inference.sampling import classify, sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.inference.segments import Segments
from picie.runtime import checkpoint
from picie.runtime.progress import Progress, log

# maximum sample size: takes seconds, and shares are accurate to about a percent
_IMAGES, _POINTS = 64, 2**15


@dataclass(frozen=True)
class Row:
    """A row of the table of segments.

    Attributes:
        name: name of the segment.
        color: its colour, "#rrggbb".
        clusters: its clusters.
        share: its share of the pixels in [0, 1]; None if it is unknown.
        nearest: value of the most similar other segment, or None.
        similarity: cosine similarity to that segment, or None.
    """

    name: str
    color: str
    clusters: list[int]
    share: float | None
    nearest: int | None
    similarity: float | None


def segments_of(run: str | Path) -> Segments:
    """The segments that a run predicts. Raises `InputError` if there is no such run."""
    return Segmenter.load(run, "cpu").segments


def overview(run: str | Path, data: str | Path | None = None, device: str = "auto") -> list[Row]:
    """Summarise the segments of a run.

    The shares are missing, with a warning, if the training images no longer exist.

    Args:
        run: the run's folder or its checkpoint file.
        data: folder of images to measure the shares on; None uses the training images.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        InputError: the run, or the folder `data`, does not exist.
    """
    state = checkpoint.load(run)
    segmenter = Segmenter.from_state(state, device)
    segments, shares = segmenter.segments, None
    try:
        images = training_images(segmenter.config.data, data)
        with Progress() as bars:
            points = sample_predicted(segmenter, images, bars, _IMAGES, _POINTS).points
        predicted = classify(points, *segmenter.classifier)[0].cpu().numpy()
        shares = np.bincount(np.array(segments.assignment)[predicted], minlength=len(segments)) / len(predicted)
    except InputError as error:
        if data is not None:
            raise
        log.warning("the shares of the pixels are unknown: %s", error)
    centroids = F.normalize(
        mean_centroids(checkpoint.centroids_in_use(state), segments.assignment, len(segments), "euclidean"), dim=1
    )
    several = len(set(segments.assignment)) > 1
    rows = []
    for value, (name, clusters) in enumerate(zip(segments.names, segments.members(), strict=True)):
        similarities = centroids @ centroids[value]
        similarities[value] = -torch.inf
        nearest = int(similarities.argmax()) if clusters and several else None
        similarity = float(similarities[nearest]) if nearest is not None else None
        share = float(shares[value]) if shares is not None else None
        rows.append(Row(name, segments.colors[value], clusters, share, nearest, similarity))
    return rows
