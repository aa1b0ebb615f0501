"""Both views of a few images in the run's latest epoch, with their pseudo-labels.

The file of pseudo-labels holds the labels of a single epoch, and run.json records which one. They
are valid only for the random draws of that epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from picie import registry
from picie.data.base import Dataset
from picie.data.images import centre_frame
from picie.data.loading import readable
from picie.display.colors import palette
from picie.errors import InputError
from picie.report.examples import Example, Picture
from picie.report.pictures import Box, fitted, jpeg_uri, map_uri, to_picture, with_box, with_dot
from picie.report.subject import Subject
from picie.runtime.rng import permutation
from picie.views.geometry import Geometry
from picie.views.two_views import TwoViews

_PAIRS = 4
_MAX_SIDE = 280
_COMPARED = 400  # maximum number of images whose pseudo-labels are compared
_MAX_MATCHED = 1024  # clusters; the time of the assignment grows with the cube of their number


@dataclass(frozen=True)
class ViewPairs:
    """The section of views.

    Attributes:
        epoch: the epoch, counted from 1, whose random draws are shown.
        views: 2, or 1 for a method with one view.
        rows: one image each.
        agreement: share of cells in [0, 1] whose two pseudo-labels agree after matching the
            clusters of view 2 to those of view 1; None unless both views have labels.
    """

    epoch: int
    views: int
    rows: list[Example]
    agreement: float | None


def gather_views(subject: Subject) -> ViewPairs | None:
    """Both views of a few training images; None if the images cannot be found."""
    if subject.images is None:
        return None
    options = subject.config.views
    try:
        views: int = registry.find(registry.METHODS, subject.config.method, "method").views
        draws = TwoViews(options.invariance, options.equivariance, subject.config.seed)
    except InputError as error:  # a user's own method or transform that cannot be imported here
        subject.notes.append(f"No views: {error}.")
        return None
    order = permutation(len(subject.images), subject.config.seed, "report views")
    labels = _labels(subject, subject.images, views, order[:_COMPARED])
    epoch = subject.record["labelled_epoch"] if labels is not None else max(1, subject.state["epoch"])
    colors = [
        palette(2 * subject.config.cluster.k)[subject.config.cluster.k :]
    ] * views  # colours that no cluster has elsewhere on the page
    agreement = None
    if labels is not None and views == 2 and subject.config.cluster.k <= _MAX_MATCHED:
        skipped = subject.record.get("skipped", {})  # the labels of unreadable images are zeros
        compared = sorted(int(i) for i in order[:_COMPARED] if subject.images.name(int(i)) not in skipped)
        matched, agreement = match_views(labels[:2, compared], subject.config.cluster.k)
        colors[1] = tuple(colors[0][i] for i in matched)
    rows = []
    for index, image in readable(subject.images, order):
        frame = torch.from_numpy(centre_frame(image, options.frame_size))[None].float() / 255
        drawn = draws.draw(epoch - 1, [index], views)
        pictures = [drawn.pictures(frame, view, options.view_size)[0] for view in range(views)]
        maps = None if labels is None else [map_uri(labels[view, index], colors[view]) for view in range(views)]
        rows.append(Example(subject.images.name(index), _row(frame[0], pictures, drawn.geometry, maps)))
        if len(rows) == _PAIRS:
            break
    return ViewPairs(epoch, views, rows, agreement) if rows else None


def _labels(subject: Subject, images: Dataset, views: int, sample: np.ndarray) -> np.ndarray | None:
    """(V, N, h, w) pseudo-labels, memory-mapped from the run's file.

    Returns None, and adds a note, if they cannot be used. Their values are checked for the images
    `sample` only, because the file may be large.
    """
    path = subject.folder / "pseudo_labels.npy"
    try:
        labels: np.ndarray = np.load(path, mmap_mode="r")
    except Exception:  # a damaged file may raise anything
        subject.notes.append("Views without pseudo-labels: the run has no readable pseudo_labels.npy.")
        return None
    if subject.record.get("labelled_epoch") is None:
        subject.notes.append("Views without pseudo-labels: run.json does not record the epoch they belong to.")
        return None
    if labels.ndim != 4 or labels.shape[0] < views or labels.shape[1] != len(images):
        subject.notes.append(
            "Views without pseudo-labels: they were made from a different number of images than there are now."
        )
        return None
    values = labels[:views, np.sort(sample)]
    if labels.dtype.kind not in "iu" or not values.size or not 0 <= values.min() <= values.max() < subject.config.cluster.k:
        subject.notes.append("Views without pseudo-labels: pseudo_labels.npy is damaged: it holds other values than clusters.")
        return None
    return labels


def match_views(labels: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Match the clusters of view 2 to those of view 1; each view has its own centroids.

    Args:
        labels: (2, N, h, w) pseudo-labels of both views; cells at the same place correspond.
        k: number of clusters.

    Returns:
        (K,) the cluster of view 1 for each cluster of view 2, by the one-to-one assignment with
        the largest number of shared cells; and the share of cells that agree under it.

    >>> match_views(np.array([[[[0, 1, 1, 1]]], [[[1, 0, 0, 1]]]]), 2)
    (array([1, 0]), 0.75)
    """
    first, second = labels.reshape(2, -1).astype(np.int64)
    counts = np.bincount(second * k + first, minlength=k * k).reshape(k, k)
    rows, matched = linear_sum_assignment(counts, maximize=True)
    return matched, float(counts[rows, matched].sum() / counts.sum())


def _row(frame: torch.Tensor, pictures: list[torch.Tensor], geometry: Geometry, maps: list[str] | None) -> list[Picture]:
    box, dot = frame_box(geometry)
    whole = to_picture(frame)
    whole = whole.resize(fitted(whole.width, whole.height, _MAX_SIDE))
    row = [
        Picture("frame x, box of G", jpeg_uri(with_box(whole, box, dot)), "The frame; the part that G selects is outlined"),
        Picture(
            "view 1: G(P₁ x)", jpeg_uri(with_dot(to_picture(pictures[0]))), "That part, enlarged and with colours changed by P1"
        ),
    ]
    if maps is not None:
        row.append(Picture("pseudo-labels of view 1", maps[0], "View 1's cluster of each feature cell", True))
    if len(pictures) > 1:
        second = with_box(to_picture(pictures[1]), box, dot)
        row.append(Picture("view 2: P₂ x, whole", jpeg_uri(second), "The whole frame with colours changed by P2, G outlined"))
        if maps is not None:
            title = "pseudo-labels of view 2, G(f(P₂ x))"
            row.append(Picture(title, maps[1], "View 2's cluster of each cell inside G", True))
    return row


def frame_box(geometry: Geometry) -> tuple[Box, tuple[float, float]]:
    """The part of the frame that `geometry` shows, and the corner (y, x) moved to upper left."""
    y0, y1, x0, x1 = (float(edge) for edge in geometry.box[0])
    if bool(geometry.transpose[0]):
        y0, y1, x0, x1 = x0, x1, y0, y1
    return (y0, y1, x0, x1), (y0, x0)
