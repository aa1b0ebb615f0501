"""Scoring: a network over a labelled split -> counts -> matching -> scores, with the protocol's name on the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_array
from torch import Tensor

from picie.config import Config, EvaluateConfig, with_overrides
from picie.data import open_dataset, takes_folder
from picie.data.base import Dataset
from picie.data.images import centre_frame, centre_label, whole_size
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError, nearest
from picie.inference.segmenter import Segmenter
from picie.runtime import checkpoint, distributed
from picie.runtime.progress import Progress, log
from picie.scoring.intervals import RESAMPLES
from picie.scoring.metrics import confusion_matrix
from picie.scoring.results import Evaluation as Evaluation  # what this module makes
from picie.scoring.results import stack_counts, summarise, with_intervals

_BATCH = 16

Predict = Callable[[Tensor, tuple[int, int]], np.ndarray]
"""(B, 3, H, W) uint8 and a size -> (B, *size) int64 clusters."""


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    dataset: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    progress: bool = True,
    record: bool = True,
    bootstrap: int = RESAMPLES,
) -> Evaluation:
    """Score a run on a labelled split, and store the matching in the run, so that predictions carry class names.

    Args:
        run: a run's folder or checkpoint file.
        data: the folder of labelled images; none: the run's own.
        split: the split; none: the run's `evaluate.split`.
        dataset: what the folder is, a name from `picie list datasets`; none: as the run's own.
        overrides: "evaluate.key=value", laid over the run's configuration: size, crop, split, matching.
        device: where to compute.
        progress: show a bar, on a terminal.
        record: store the matching in the run's checkpoint.
        bootstrap: resamples of the images for confidence intervals; 0 for none.

    Raises:
        InputError: no such run, data or split, no labels, labels that cannot be used, or an override of something else.
    """
    path = checkpoint.find_checkpoint(run)
    state = checkpoint.load(path)
    segmenter = Segmenter.from_state(state, device)
    config = scored_config(segmenter.config, overrides)
    labelled, split = open_labelled(config, data, split, dataset)
    if segmenter.k != (trained := len(state["classifier"]["weight"])):
        log.info("scoring the %d clusters that `picie name` made, not the %d that were trained", segmenter.k, trained)
    with Progress(progress) as bars:
        result = score_split(segmenter.clusters, segmenter.k, Pairs(labelled, config), split, bars)
    if record:
        _record(path, state, result)
    return with_intervals(result, bootstrap)


def scored_config(config: Config, overrides: Sequence[str]) -> Config:
    """A run's configuration with "evaluate.key=value" strings applied. Raises `InputError` for any other key."""
    valid = [f"evaluate.{key}" for key in EvaluateConfig.model_fields if key != "every"]
    for key in (override.partition("=")[0].strip() for override in overrides):
        if key not in valid:
            raise InputError(f"{key!r} cannot be changed for a score, the run is trained; {nearest(key, valid)}")
    return with_overrides(config, overrides)


def open_labelled(
    config: Config, data: str | Path | None = None, split: str | None = None, name: str | None = None
) -> tuple[Dataset, str]:
    """The labelled split that a run is scored on, and its name: by default the run's own. Raises `InputError`."""
    own = config.data
    if name is None:
        name = own.name if data is None or takes_folder(own.name) else "folder"
    root = str(data) if data is not None else own.root if takes_folder(name) else None
    source = own.model_copy(update={"name": name, "root": root})
    if root is None and takes_folder(name):
        raise InputError("the run knows no data to be scored on; give a labelled folder: --data FOLDER")
    split = split or config.evaluate.split
    dataset = open_dataset(source, split)
    if dataset.classes is None:
        needed = (
            "images/, labels/ and classes.toml" if name == "folder" else f"them; see `picie data check {name} {source.root}`"
        )
        raise InputError(f"{source.root}: split {split!r} has no labels; scores need {needed}")
    return dataset, split


def _record(path: Path, scored: dict[str, Any], result: Evaluation) -> None:
    """Store the matching in the run's checkpoint, unless another process works on it or has changed it meanwhile."""
    with checkpoint.exclusive(path.parent) as alone:
        state = checkpoint.load(path) if alone else scored
        weights = [checkpoint.classifier_in_use(s)[0] for s in (state, scored)]
        if not alone or weights[0].shape != weights[1].shape or not torch.equal(*weights):
            log.warning("another picie is at work on the run: these scores do not name its clusters; evaluate it again later")
            return
        state["matching"] = matching_state(result)
        try:
            checkpoint.save(path, state)
        except OSError as error:
            log.warning("the run cannot be written (%s): its clusters stay without names", error.strerror)
            return
    naming = state.get("naming")
    if naming is not None and naming["segments"]["user_defined"]:
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
    """Open every label once, so that a bad one is found before any training. Raises `InputError`."""
    assert dataset.classes is not None
    ignore, readable, labelled = dataset.classes.ignore, 0, False
    with bars.bar("check labels", len(dataset)) as advance:
        for label in read_ahead(lambda i: _usable_label(dataset, i), _own_part(dataset)):
            readable += label is not None
            labelled = labelled or (label is not None and bool((label != ignore).any()))
            advance(1)
    _check_scorable(distributed.all_reduce_max(readable), bool(distributed.all_reduce_max(labelled)), ignore)


def _own_part(dataset: Dataset) -> list[int]:
    """The images of `dataset` that are this process's, of the processes of a run."""
    indices: list[int] = distributed.shard(np.arange(len(dataset))).tolist()
    return indices


def _check_scorable(readable: int, labelled: bool, ignore: int) -> None:
    """Raises `InputError` unless some image can be read, and some pixel has a class."""
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


class Pairs:
    """Images of a labelled dataset and their labels, at the size that is scored.

    While they fit they stay in memory: a run asks for the same ones after every epoch, and decoding takes longer than scoring.

    Args:
        dataset: the images.
        config: the protocol.
        keep: bytes to keep; 2,175 images of COCO at 320 px are 0.9 GB, 101 of CamVid at 160 px 10 MB.
    """

    def __init__(self, dataset: Dataset, config: Config, keep: int = 2**28) -> None:
        self.dataset, self.config, self._room = dataset, config, keep
        self._kept: dict[int, tuple[np.ndarray, np.ndarray] | None] = {}
        self._warnings: list[str] = []

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Pixels (3, H, W) uint8 and label (H, W); None for an image that cannot be read. Threads may ask at once."""
        if index in self._kept:
            return self._kept[index]
        try:
            pair = _load_pair(self.dataset, index, self.config)
        except UnreadableImageError as error:
            self._warnings.append(str(error))
            pair = None
        size = sum(part.nbytes for part in pair or ())
        if size <= self._room:
            self._room -= size
            self._kept[index] = pair
        return pair

    def pop_warnings(self) -> list[str]:
        """What is wrong with each image that could not be read, once."""
        told, self._warnings = self._warnings, []
        return told


def score_split(predict: Predict, k: int, pairs: Pairs, split: str, bars: Progress, matching: str | None = None) -> Evaluation:
    """Count, match and score `predict`, which makes `k` clusters, on all images of a labelled dataset.

    `matching` is a key of `picie.scoring.metrics.MATCHINGS`; None: `evaluate.matching`.
    """
    dataset, config = pairs.dataset, pairs.config
    assert dataset.classes is not None
    counts = count(predict, k, pairs, bars)
    _check_scorable(counts.shape[0], counts.nnz > 0, dataset.classes.ignore)
    return summarise(counts, dataset.classes, matching or config.evaluate.matching, f"{split}; {_part(config)}")


def _part(config: Config) -> str:
    """The part of each image that is scored, in words."""
    size = config.evaluate_size
    return f"centre square of {size} px" if config.evaluate.crop else f"whole images, short side {size} px"


def count(predict: Predict, k: int, pairs: Pairs, bars: Progress) -> Any:
    """(N, C * K) sparse: the confusion of `predict` on each of the N images that can be read.

    The processes of a run count a part each, and all get all.
    """
    dataset = pairs.dataset
    assert dataset.classes is not None
    n_classes, ignore = len(dataset.classes), dataset.classes.ignore
    counted: dict[int, Any] = {}
    pending: defaultdict[tuple[int, ...], list[tuple[int, np.ndarray, np.ndarray]]] = defaultdict(list)  # by size

    def flush(items: list[tuple[int, np.ndarray, np.ndarray]]) -> None:
        clusters = predict(torch.from_numpy(np.stack([pixels for _, pixels, _ in items])), items[0][2].shape)
        for (index, _, label), own in zip(items, clusters, strict=True):
            counted[index] = coo_array(confusion_matrix(label, own, n_classes, k, ignore))
        items.clear()

    with bars.bar("evaluate", len(dataset)) as advance:
        indices = _own_part(dataset)
        for index, pair in zip(indices, read_ahead(pairs.load, indices), strict=True):
            if pair is not None:
                own = pending[pair[0].shape]
                own.append((index, *pair))
                if len(own) == _BATCH:
                    flush(own)
                elif sum(map(len, pending.values())) > 4 * _BATCH:  # of many sizes, not all can wait
                    flush(max(pending.values(), key=len))
            advance(1)
        for left in pending.values():
            if left:
                flush(left)
    everywhere = distributed.all_gather_object((counted, pairs.pop_warnings()))
    for problem in (problem for _, problems in everywhere for problem in problems):
        log.warning("skipped: %s", problem)
    counted = {index: counts for part, _ in everywhere for index, counts in part.items()}
    return stack_counts([counted[index] for index in sorted(counted)], n_classes, k)


def _load_pair(dataset: Dataset, index: int, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (3, H, W) uint8 and label (H, W) at the protocol's size. Raises `UnreadableImageError`."""
    size = config.evaluate_size
    image = dataset.image(index)
    label = dataset.label(index)
    if config.evaluate.crop:
        return centre_frame(image, (size, size)), centre_label(label, (size, size))
    height, width = whole_size(image.height, image.width, size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    rows = ((np.arange(height) + 0.5) * label.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * label.shape[1] / width).astype(int)
    return pixels, label[np.ix_(rows, columns)]
