"""Score a run: predict a labelled split, count, match clusters to classes, compute the scores.

The result states its protocol in words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

# re-exported: the result type of this module
from picie.scoring.results import Evaluation as Evaluation
from picie.scoring.results import named_assignment, stack_counts, summarise, with_intervals

_BATCH = 16

Predict = Callable[[Tensor, tuple[int, int]], np.ndarray]
"""Maps (B, 3, H, W) uint8 pixels and an output size (h, w) to (B, h, w) int64 clusters."""


@dataclass(frozen=True)
class ScoreOptions:
    """Options that `evaluate`, `evaluate_baselines` and `evaluate_probes` share.

    Attributes:
        dataset: type of the dataset in the folder that is scored, a name from `picie list
            datasets`; None uses the run's own.
        overrides: "evaluate.key=value" strings applied to the run's configuration: size, crop,
            split or matching.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: whether to show progress bars on a terminal.
    """

    dataset: str | None = None
    overrides: Sequence[str] = ()
    device: str = "auto"
    progress: bool = True


DEFAULTS = ScoreOptions()


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    name_clusters: bool = False,
    bootstrap: int = RESAMPLES,
    options: ScoreOptions = DEFAULTS,
) -> Evaluation:
    """Score a run on a labelled split.

    The run is only read, unless `name_clusters` is set.

    Args:
        run: the run's folder or its checkpoint file.
        data: folder of labelled images; None uses the run's own dataset.
        split: split to score; None uses the run's `evaluate.split`.
        name_clusters: whether to store the matching in the run's checkpoint, so that predictions
            carry the class names.
        bootstrap: number of bootstrap resamples for the confidence intervals; 0 computes none.
        options: how to score.

    Raises:
        InputError: the run, data or split does not exist, the split has no labels, the labels
            cannot be used, or an override is not an `evaluate` option.
    """
    path = checkpoint.find_checkpoint(run)
    state = checkpoint.load(path)
    segmenter = Segmenter.from_state(state, options.device)
    config = scored_config(segmenter.config, options.overrides)
    labelled, split = open_labelled(config, data, split, options.dataset)
    if segmenter.k != (trained := len(state["classifier"]["weight"])):
        log.info("scoring the %d clusters made by `picie name`, not the %d trained ones", segmenter.k, trained)
    with Progress(options.progress) as bars:
        result = score_split(segmenter.clusters, segmenter.k, Pairs(labelled, config), split, bars)
    if name_clusters:
        _store_matching(path, state, result)
    return with_intervals(result, bootstrap)


def scored_config(config: Config, overrides: Sequence[str]) -> Config:
    """Apply "evaluate.key=value" strings to a run's configuration.

    Raises:
        InputError: a key that is not an `evaluate` option, or an invalid value.
    """
    valid = [f"evaluate.{key}" for key in EvaluateConfig.model_fields if key != "every"]
    for key in (override.partition("=")[0].strip() for override in overrides):
        if key not in valid:
            raise InputError(f"{key!r} cannot be changed when scoring a trained run; {nearest(key, valid)}")
    return with_overrides(config, overrides)


def open_labelled(
    config: Config, data: str | Path | None = None, split: str | None = None, name: str | None = None
) -> tuple[Dataset, str]:
    """Open the labelled split that a run is scored on.

    Args:
        config: the run's configuration.
        data: folder of labelled images; None uses the run's own.
        split: name of the split; None uses `evaluate.split`.
        name: type of the dataset; None uses the run's own.

    Returns:
        The dataset and the name of its split.

    Raises:
        InputError: there is no such dataset, or it has no labels.
    """
    run_data = config.data
    if name is None:
        name = run_data.name if data is None or takes_folder(run_data.name) else "folder"
    root = str(data) if data is not None else run_data.root if takes_folder(name) else None
    source = run_data.model_copy(update={"name": name, "root": root})
    if root is None and takes_folder(name):
        raise InputError("the run has no dataset of its own; give a labelled folder: --data FOLDER")
    split = split or config.evaluate.split
    dataset = open_dataset(source, split)
    if dataset.classes is None:
        advice = (
            "images/, labels/ and classes.toml" if name == "folder" else f"them; see `picie data check {name} {source.root}`"
        )
        raise InputError(f"{source.root}: split {split!r} has no labels; scores need {advice}")
    return dataset, split


def _store_matching(path: Path, scored: dict[str, Any], result: Evaluation) -> None:
    """Store the matching in the checkpoint, unless another process is using the run or has changed
    it.
    """
    with checkpoint.exclusive(path.parent) as locked:
        state = checkpoint.load(path) if locked else scored
        weights = [checkpoint.classifier_in_use(s)[0] for s in (state, scored)]
        if not locked or weights[0].shape != weights[1].shape or not torch.equal(*weights):
            log.warning("another picie process is using this run, so its clusters were not named; evaluate it again later")
            return
        state["matching"] = matching_state(result)
        try:
            checkpoint.save(path, state)
        except OSError as error:
            log.warning("cannot write the run (%s): its clusters were not named", error.strerror)
            return
    naming = state.get("naming")
    if naming is not None and naming["segments"]["user_defined"]:
        log.info(
            "the names given with `picie name` stay in use instead of the class names; `picie name RUN --reset` removes them"
        )


def matching_state(result: Evaluation) -> dict[str, Any]:
    """The part of an evaluation that a checkpoint stores."""
    classes = result.classes
    return {
        "names": list(classes.names),
        "colors": list(classes.colors),
        "ignore": classes.ignore,
        "assignment": named_assignment(result).tolist(),
        "protocol": result.protocol,
    }


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
            160 px take 10 MB.
    """

    def __init__(self, dataset: Dataset, config: Config, keep: int = 2**28) -> None:
        self.dataset, self.config, self._free_bytes = dataset, config, keep
        self._cached: dict[int, tuple[np.ndarray, np.ndarray] | None] = {}
        self._warnings: list[str] = []

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Load pixels (3, H, W) uint8 and label (H, W), or None if the image cannot be read.

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


def score_split(predict: Predict, k: int, pairs: Pairs, split: str, bars: Progress, matching: str | None = None) -> Evaluation:
    """Score a predictor on all images of a labelled dataset.

    Args:
        predict: the predictor.
        k: number of clusters that it predicts.
        pairs: images and labels.
        split: name of the split, for the protocol.
        bars: shows progress.
        matching: a key of `picie.scoring.metrics.MATCHINGS`; None uses `evaluate.matching`.

    Raises:
        InputError: no image can be read, or no pixel has a class.
    """
    dataset, config = pairs.dataset, pairs.config
    assert dataset.classes is not None
    counts = count_confusions(predict, k, pairs, bars)
    _check_scorable(counts.shape[0], counts.nnz > 0, dataset.classes.ignore)
    return summarise(counts, dataset.classes, matching or config.evaluate.matching, f"{split}; {_region(config)}")


def _region(config: Config) -> str:
    """Describe the part of each image that is scored."""
    size = config.evaluate_size
    return f"centre square of {size} px" if config.evaluate.crop else f"whole images, short side {size} px"


def count_confusions(predict: Predict, k: int, pairs: Pairs, bars: Progress) -> Any:
    """Count the confusion of each readable image.

    Each process of a distributed run counts its shard; all processes receive all counts.

    Returns:
        (N, C * K) sparse int64: one row for each of the N readable images.
    """
    dataset = pairs.dataset
    assert dataset.classes is not None
    n_classes, ignore = len(dataset.classes), dataset.classes.ignore
    counted: dict[int, Any] = {}
    # images that wait for a full batch, by size
    pending: defaultdict[tuple[int, ...], list[tuple[int, np.ndarray, np.ndarray]]] = defaultdict(list)

    def flush(items: list[tuple[int, np.ndarray, np.ndarray]]) -> None:
        clusters = predict(torch.from_numpy(np.stack([pixels for _, pixels, _ in items])), items[0][2].shape)
        for (index, _, label), predicted in zip(items, clusters, strict=True):
            counted[index] = coo_array(confusion_matrix(label, predicted, n_classes, k, ignore))
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
    return stack_counts([counted[index] for index in sorted(counted)], n_classes, k)


def _load_pair(dataset: Dataset, index: int, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Load pixels (3, H, W) uint8 and label (H, W) at the protocol's size.

    Raises `UnreadableImageError`.
    """
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
