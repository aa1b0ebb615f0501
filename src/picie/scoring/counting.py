"""Count a predictor's pixels by class and cluster on a labelled split, and score them.

Used by `evaluate`, by the baselines and probes, and by the validation of a training run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_array
from torch import Tensor

from picie.config import Config
from picie.data import label_summary
from picie.data.base import Dataset
from picie.data.images import centre_frame, centre_label, whole_size
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError
from picie.runtime import distributed
from picie.runtime.progress import Progress, log
from picie.scoring.boundaries import BorderCounts
from picie.scoring.by_name import ByName
from picie.scoring.metrics import confusion_matrix
from picie.scoring.results import Evaluation, stack_counts, summarise

_BATCH = 16

Predict = Callable[[Tensor, tuple[int, int]], np.ndarray]
"""Maps (B, 3, H, W) uint8 pixels and an output size (h, w) to (B, h, w) int64 clusters."""
PredictSeveral = Callable[[Tensor, tuple[int, int]], Sequence[np.ndarray]]
"""As `Predict`, for several predictors that share the work on the pixels."""


def check_labels(dataset: Dataset, bars: Progress) -> None:
    """Read every label once, so that a bad one is found before training starts.

    Raises:
        InputError: a label cannot be used, no image can be read, or no pixel has a class.
    """
    assert dataset.classes is not None
    ignore, readable, labelled = dataset.classes.ignore, 0, False
    with bars.bar("check labels", len(dataset)) as advance:
        for label in read_ahead(lambda i: _usable_label(dataset, i), _local_shard(dataset)):
            readable += label is not None
            labelled = labelled or (label is not None and bool((label != ignore).any()))
            advance(1)
    _check_scorable(distributed.all_reduce_max(readable), bool(distributed.all_reduce_max(labelled)), ignore)
    for line in label_summary(dataset)[1]:
        log.warning("%s", line)


def _local_shard(dataset: Dataset) -> list[int]:
    """Indices of the images that this process handles."""
    indices: list[int] = distributed.shard(np.arange(len(dataset))).tolist()
    return indices


def _check_scorable(readable: int, labelled: bool, ignore: int) -> None:
    """Raise `InputError` unless at least one image can be read and one pixel has a class."""
    if not readable:
        raise InputError("none of the split's images can be read")
    if not labelled:
        raise InputError(f"every pixel of the split's labels is ignored ({ignore}), so nothing can be scored")


def _usable_label(dataset: Dataset, index: int) -> np.ndarray | None:
    """The label, or None if the image cannot be read."""
    try:
        return dataset.label(index)
    except UnreadableImageError:
        return None


class Pairs:
    """Images of a labelled dataset and their labels, at the size at which they are scored.

    Pairs are cached up to a memory budget: a training run needs them after every epoch, and
    decoding takes longer than scoring.

    Args:
        dataset: the labelled images.
        config: the protocol (`config.evaluate`).
        keep: cache size in bytes. 2,175 images of COCO at 320 px take 0.9 GB, 101 of CamVid at
            320 px take 34 MB.
        borders: also counts the first predictor's pixels near borders; None does not.
    """

    def __init__(self, dataset: Dataset, config: Config, keep: int = 2**28, borders: BorderCounts | None = None) -> None:
        self.borders = borders
        self.dataset, self.config, self._free_bytes = dataset, config, keep
        self._cached: dict[int, tuple[np.ndarray, np.ndarray] | None] = {}
        self._warnings: list[str] = []

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Load pixels (3, H, W) uint8 and label (h, w), or None if the image cannot be read.

        Thread-safe.
        """
        if index in self._cached:
            return self._cached[index]
        try:
            pair = _load_pair(self.dataset, index, self.config)
        except UnreadableImageError as error:
            self._warnings.append(str(error))
            pair = None
        size = sum(part.nbytes for part in pair or ())
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._cached[index] = pair
        return pair

    def pop_warnings(self) -> list[str]:
        """Return the messages about unreadable images collected since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings


def score_split(
    predict: Predict, k: int, pairs: Pairs, split: str, bars: Progress, matching: str | ByName | None = None
) -> Evaluation:
    """Score a predictor on all images of a labelled dataset.

    Args:
        predict: the predictor.
        k: number of clusters that it predicts.
        pairs: images and labels.
        split: name of the split, for the protocol.
        bars: shows progress.
        matching: a key of `picie.scoring.metrics.MATCHINGS`, or a matching by name; None uses
            `evaluate.matching`.

    Raises:
        InputError: no image can be read, or no pixel has a class.
    """
    return score_several(lambda *images: [predict(*images)], k, pairs, split, bars, [matching])[0]


def score_several(
    predict: PredictSeveral,
    k: int,
    pairs: Pairs,
    split: str,
    bars: Progress,
    matchings: Sequence[str | ByName | None],
) -> list[Evaluation]:
    """Score several predictors that share the work on each image, as `score_split` scores one.

    Args:
        predict: returns the clusters of each predictor.
        k: number of clusters that each of them predicts.
        pairs: images and labels.
        split: name of the split, for the protocol.
        bars: shows progress.
        matchings: the matching of each predictor.

    Raises:
        InputError: no image can be read, or no pixel has a class.
    """
    dataset, config = pairs.dataset, pairs.config
    assert dataset.classes is not None
    results = []
    for counts, matching in zip(_count(predict, k, pairs, bars, len(matchings)), matchings, strict=True):
        _check_scorable(counts.shape[0], counts.nnz > 0, dataset.classes.ignore)
        results.append(summarise(counts, dataset.classes, matching or config.evaluate.matching, f"{split}; {_region(config)}"))
    return results


def _region(config: Config) -> str:
    """Describe the part of each image that is scored."""
    size, seen = config.evaluate_size, config.predict_size
    region = f"centre square of {size} px" if config.evaluate.crop else f"whole images, short side {size} px"
    return region if seen == size else f"{region}, predicted at {seen} px"


def count_confusions(predict: Predict, k: int, pairs: Pairs, bars: Progress) -> Any:
    """Count the confusion of each readable image.

    Each process of a distributed run counts its shard; all processes receive all counts.

    Returns:
        (N, C * K) sparse int64: one row for each of the N readable images.
    """
    return _count(lambda *images: [predict(*images)], k, pairs, bars, 1)[0]


def _count(predict: PredictSeveral, k: int, pairs: Pairs, bars: Progress, n_predictors: int) -> list[Any]:
    """As `count_confusions`, for each of several predictors."""
    dataset = pairs.dataset
    assert dataset.classes is not None
    n_classes, ignore = len(dataset.classes), dataset.classes.ignore
    counted: dict[int, Any] = {}
    # images that wait for a full batch, by size
    pending: defaultdict[tuple[int, ...], list[tuple[int, np.ndarray, np.ndarray]]] = defaultdict(list)

    def flush(items: list[tuple[int, np.ndarray, np.ndarray]]) -> None:
        clusters = predict(torch.from_numpy(np.stack([pixels for _, pixels, _ in items])), items[0][2].shape)
        for (index, _, label), *predicted in zip(items, *clusters, strict=True):
            if pairs.borders is not None:
                pairs.borders.add(label, predicted[0])
            counted[index] = [coo_array(confusion_matrix(label, one, n_classes, k, ignore)) for one in predicted]
        items.clear()

    with bars.bar("evaluate", len(dataset)) as advance:
        indices = _local_shard(dataset)
        for index, pair in zip(indices, read_ahead(pairs.load, indices), strict=True):
            if pair is not None:
                same_size = pending[pair[0].shape]
                same_size.append((index, *pair))
                if len(same_size) == _BATCH:
                    flush(same_size)
                elif sum(map(len, pending.values())) > 4 * _BATCH:
                    # bounds the memory if there are many sizes
                    flush(max(pending.values(), key=len))
            advance(1)
        for items in pending.values():
            if items:
                flush(items)
    gathered = distributed.all_gather_object((counted, pairs.pop_warnings()))
    for problem in (problem for _, problems in gathered for problem in problems):
        log.warning("skipped: %s", problem)
    counted = {index: counts for shard, _ in gathered for index, counts in shard.items()}
    rows = [counted[index] for index in sorted(counted)]
    return [stack_counts([row[i] for row in rows], n_classes, k) for i in range(n_predictors)]


def _load_pair(dataset: Dataset, index: int, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Load pixels (3, H, W) uint8 at the size of predictions, and label (h, w) at the protocol's.

    Raises `UnreadableImageError`.
    """
    size, seen = config.evaluate_size, config.predict_size
    image = dataset.image(index)
    label = dataset.label(index)
    if config.evaluate.crop:
        return centre_frame(image, (seen, seen)), centre_label(label, (size, size))
    height, width = whole_size(image.height, image.width, seen)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    height, width = whole_size(image.height, image.width, size)
    rows = ((np.arange(height) + 0.5) * label.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * label.shape[1] / width).astype(int)
    return pixels, label[np.ix_(rows, columns)]
