"""What the segments of a run are: their names and colours, how much of the pictures they cover, and which are alike."""

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

_IMAGES, _POINTS = 64, 2**15  # shares to a percent or so, in seconds


@dataclass(frozen=True)
class Row:
    """A segment as the table shows it: `share` of the pixels, and the `nearest` other with its cosine `similarity`."""

    name: str
    color: str
    clusters: list[int]
    share: float | None
    nearest: int | None
    similarity: float | None


def segments_of(run: str | Path) -> Segments:
    """The segments that a run predicts. Raises `InputError`."""
    return Segmenter.load(run, "cpu").segments


def overview(run: str | Path, data: str | Path | None = None, device: str = "auto") -> list[Row]:
    """The segments of a run; without shares, and with a warning, where its images are gone. Raises `InputError`."""
    state = checkpoint.load(run)
    segmenter = Segmenter.from_state(state, device)
    segments, shares = segmenter.segments, None
    try:
        images = training_images(segmenter.config.data, data)
        with Progress() as bars:
            points = sample_predicted(segmenter, images, bars, _IMAGES, _POINTS).points
        clusters = classify(points, *segmenter.classifier)[0].cpu().numpy()
        shares = np.bincount(np.array(segments.assignment)[clusters], minlength=len(segments)) / len(clusters)
    except InputError as error:
        if data is not None:
            raise
        log.warning("no shares of pixels: %s", error)
    similar = F.normalize(
        mean_centroids(checkpoint.centroids_in_use(state), segments.assignment, len(segments), "euclidean"), dim=1
    )
    similar = (similar @ similar.T).fill_diagonal_(-torch.inf)
    rows = []
    for value, name in enumerate(segments.names):
        own = segments.clusters(value)
        closest = int(similar[value].argmax()) if own and len(set(segments.assignment)) > 1 else None
        alike = float(similar[value, closest]) if closest is not None else None
        share = float(shares[value]) if shares is not None else None
        rows.append(Row(name, segments.colors[value], own, share, closest, alike))
    return rows
