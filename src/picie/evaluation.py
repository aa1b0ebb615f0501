"""Scoring: a network over a labelled split -> counts -> matching -> scores, with the protocol's name on the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from picie import checkpoint
from picie.config import Config
from picie.data import open_dataset, takes_folder
from picie.data.base import ClassMap, Dataset
from picie.data.images import centre_frame, centre_label, whole_size
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError
from picie.inference import Segmenter
from picie.metrics import UNMATCHED, Scores, confusion_matrix, match_one_to_one, score
from picie.runlog import Progress, log

_BATCH = 16

Predict = Callable[[Tensor, tuple[int, int]], np.ndarray]
"""(B, 3, H, W) uint8 and a size -> (B, *size) int64 clusters."""


@dataclass(frozen=True)
class Evaluation:
    """The result of scoring a split.

    Attributes:
        confusion: (C, K) pixel counts.
        assignment: (K,) each cluster's class or UNMATCHED.
        scores: what they come to.
        classes: the classes.
        protocol: how it was counted, in words; it belongs beside every number.
        n_images: images scored.
    """

    confusion: np.ndarray
    assignment: np.ndarray
    scores: Scores
    classes: ClassMap
    protocol: str
    n_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: scores in percent, NaN as None."""
        rows = []
        for index, name in enumerate(self.classes.names):
            clusters = np.flatnonzero(self.assignment == index)
            rows.append(
                {
                    "name": name,
                    "iou": percent(self.scores.iou[index]),
                    "accuracy": percent(self.scores.class_accuracy[index]),
                    "pixels": int(self.scores.pixels[index]),
                    "cluster": int(clusters[0]) if len(clusters) else None,
                }
            )
        return {
            "accuracy": percent(self.scores.accuracy),
            "miou": percent(self.scores.miou),
            "per_class": rows,
            "protocol": self.protocol,
            "n_images": self.n_images,
        }


def percent(ratio: float) -> float | None:
    """`ratio` in percent, None for NaN."""
    return None if np.isnan(ratio) else round(100 * float(ratio), 4)


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    split: str | None = None,
    device: str = "auto",
    progress: bool = True,
    record: bool = True,
    dataset: str | None = None,
) -> Evaluation:
    """Score a run on a labelled split, and store the matching in the run, so that predictions carry class names.

    Args:
        run: a run's folder or checkpoint file.
        data: the folder of labelled images; none: the run's own.
        split: the split; none: the run's `evaluate.split`.
        device: where to compute.
        progress: show a bar, on a terminal.
        record: store the matching in the run's checkpoint.
        dataset: what the folder is, a name from `picie list datasets`; none: as the run's own.

    Raises:
        InputError: no such run, data or split, no labels, or labels that cannot be used.
    """
    path = checkpoint.find_checkpoint(run)
    with checkpoint.exclusive(path.parent) as alone:
        state = checkpoint.load(path)
        segmenter = Segmenter.from_state(state, device)
        labelled, split = open_labelled(segmenter.config, data, split, dataset)
        if segmenter.k != (trained := len(state["classifier"]["weight"])):
            log.info("scoring the %d clusters that `picie name` made, not the %d that were trained", segmenter.k, trained)
        with Progress(progress) as bars:
            check_labels(labelled, bars)
            result = score_split(segmenter.clusters, segmenter.k, labelled, segmenter.config, split, bars)
        if record:
            _record(path, state, result, alone)
    return result


def open_labelled(
    config: Config, data: str | Path | None = None, split: str | None = None, name: str | None = None
) -> tuple[Dataset, str]:
    """The labelled split that a run is scored on, and its name: by default the run's own. Raises `InputError`."""
    own = config.data
    if name is None:
        name = own.name if data is None or takes_folder(own.name) else "folder"
    root = str(data) if data is not None else own.root if takes_folder(name) else None
    source = own.model_copy(update={"name": name, "root": root})
    split = split or config.evaluate.split
    dataset = open_dataset(source, split)
    if dataset.classes is None:
        raise InputError(f"{source.root}: split {split!r} has no labels; scores need images/, labels/ and classes.toml")
    return dataset, split


def _record(path: Path, state: dict[str, Any], result: Evaluation, alone: bool) -> None:
    """Store the matching in the run's checkpoint, unless another process may be writing it."""
    if not alone:
        log.warning("the run is being trained: these scores do not name its clusters; evaluate it again when it is done")
        return
    state["matching"] = matching_state(result)
    try:
        checkpoint.save(path, state)
    except OSError as error:
        log.warning("the run cannot be written (%s): its clusters stay without names", error.strerror)
        return
    naming = state.get("naming")
    if naming is not None and naming["segments"]["given"]:
        log.info(
            "the names given with `picie name` stay in use, not those of the classes; `picie name RUN --reset` forgets them"
        )


def matching_state(result: Evaluation) -> dict[str, Any]:
    """What a checkpoint keeps of an evaluation."""
    classes = result.classes
    return {
        "names": list(classes.names),
        "colors": list(classes.colors),
        "ignore": classes.ignore,
        "assignment": result.assignment.tolist(),
        "protocol": result.protocol,
    }


def check_labels(dataset: Dataset, bars: Progress) -> None:
    """Open every label once, so that a bad one is found before any work. Raises `InputError`."""
    assert dataset.classes is not None
    ignore, readable, labelled = dataset.classes.ignore, 0, False
    with bars.bar("check labels", len(dataset)) as advance:
        for label in read_ahead(lambda i: _usable_label(dataset, i), range(len(dataset))):
            readable += label is not None
            labelled = labelled or (label is not None and bool((label != ignore).any()))
            advance(1)
    if not readable:
        raise InputError("none of the split's images can be read")
    if not labelled:
        raise InputError(f"no pixel of the split's labels has a class: all are ignore ({ignore}); nothing can be scored")


def _usable_label(dataset: Dataset, index: int) -> np.ndarray | None:
    """The label, or None if it is the image that cannot be read."""
    try:
        return dataset.label(index)
    except UnreadableImageError:
        return None


def score_split(predict: Predict, k: int, dataset: Dataset, config: Config, split: str, bars: Progress) -> Evaluation:
    """Count, match and score `predict`, which makes `k` clusters, on all images of a labelled `dataset`."""
    assert dataset.classes is not None
    confusion, n_images = count(predict, k, dataset, config, bars)
    assignment = match_one_to_one(confusion)
    return Evaluation(
        confusion, assignment, score(confusion, assignment), dataset.classes, protocol_name(config, split), n_images
    )


def protocol_name(config: Config, split: str) -> str:
    """The way a score is taken, in words."""
    size = config.evaluate_size
    part = f"centre square of {size} px" if config.evaluate.crop else f"whole images, short side {size} px"
    return f"{split}; {part}; one-to-one Hungarian on pixels over the split; mIoU over classes present"


def count(predict: Predict, k: int, dataset: Dataset, config: Config, bars: Progress) -> tuple[np.ndarray, int]:
    """(C, K) confusion of `predict` over `dataset`, and the number of images in it."""
    assert dataset.classes is not None
    n_classes, ignore = len(dataset.classes), dataset.classes.ignore
    confusion = np.zeros((n_classes, k), dtype=np.int64)
    n_images = 0
    pending: list[tuple[np.ndarray, np.ndarray]] = []

    def flush() -> None:
        nonlocal confusion
        if pending:
            pixels = torch.from_numpy(np.stack([p for p, _ in pending]))
            labels = np.stack([label for _, label in pending])
            clusters = predict(pixels, labels.shape[1:])
            confusion += confusion_matrix(labels, clusters, n_classes, k, ignore)
            pending.clear()

    with bars.bar("evaluate", len(dataset)) as advance:
        for pair in read_ahead(lambda i: _load_pair(dataset, i, config), range(len(dataset))):
            if pair is not None:
                if pending and pending[0][0].shape != pair[0].shape:
                    flush()
                pending.append(pair)
                n_images += 1
                if len(pending) == _BATCH:
                    flush()
            advance(1)
        flush()
    return confusion, n_images


def _load_pair(dataset: Dataset, index: int, config: Config) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels (3, H, W) uint8 and label (H, W) at the protocol's size; None for an image that cannot be read."""
    size = config.evaluate_size
    try:
        image = dataset.image(index)
    except UnreadableImageError as error:
        log.warning("skipped: %s", error)
        return None
    label = dataset.label(index)
    if config.evaluate.crop:
        return centre_frame(image, (size, size)), centre_label(label, (size, size))
    height, width = whole_size(image.height, image.width, size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    rows = ((np.arange(height) + 0.5) * label.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * label.shape[1] / width).astype(int)
    return pixels, label[np.ix_(rows, columns)]


def unmatched_clusters(result: Evaluation) -> list[int]:
    """Clusters that no class was matched to."""
    return [int(i) for i in np.flatnonzero(result.assignment == UNMATCHED)]
