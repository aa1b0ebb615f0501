"""`picie score`: score label maps of any method, with the same counts, matchings and ratios as a
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from picie.data.base import ClassMap
from picie.data.images import open_label
from picie.data.label_coding import LabelCoding, check_label, read_coding
from picie.data.label_statistics import LabelStatistics
from picie.data.labels import named_labels, summarise_labels
from picie.data.loading import read_ahead
from picie.data.search import find_images
from picie.errors import InputError, nearest
from picie.inference.output_folder import FILE_NAME
from picie.inference.prediction_folder import open_predictions
from picie.inference.prediction_record import is_label_map
from picie.runtime.progress import Progress, log
from picie.scoring.boundaries import without_interior
from picie.scoring.intervals import RESAMPLES, check_resamples
from picie.scoring.metrics import MATCHINGS, confusion_matrix
from picie.scoring.results import Evaluation, stack_counts, summarise, with_intervals

_MAX_VALUE = 65535


@dataclass(frozen=True)
class LabelValues:
    """Meaning of the values stored in label maps.

    Attributes:
        classes: the classes.
        lookup: (256,) the class, or the ignore value, of each stored value; None if the stored
            values are class indices.
        coding: a classes.toml, instead of `lookup`.
        name: the name of the label set of `lookup`.
        seen: counts of the stored values.
    """

    classes: ClassMap
    lookup: np.ndarray | None = None
    coding: LabelCoding | None = None
    name: str = ""
    seen: LabelStatistics = field(default_factory=LabelStatistics)

    def read(self, path: Path) -> np.ndarray:
        """Read a label map as (H, W) classes or the ignore value.

        Raises:
            InputError: the file is not a label map, or holds values without a meaning.
        """
        if self.coding is not None:
            return self.coding.read(path, self.seen)
        label = open_label(path)
        self.seen.add(label, path)
        if self.lookup is None:
            check_label(label, self.classes, path)
            return label
        wrong = label[(label < 0) | (label >= len(self.lookup))]
        if wrong.size:
            raise InputError(f"{path}: label value {int(wrong[0])} is not in 0..{len(self.lookup) - 1}; fix the label")
        classes: np.ndarray = self.lookup[label]
        return classes

    def summary(self) -> tuple[dict[str, Any], list[str]]:
        """A summary of the label files read so far, and warnings about their values."""
        if self.lookup is not None:
            return summarise_labels(self.name, self.lookup, self.seen)
        names, coding = self.classes.names, self.coding
        ignore = self.classes.ignore if coding is None else coding.ignore
        return self.seen.summary([ignore]), self.seen.warnings(names, None if coding is None else coding.values, ignore)


def label_values(classes: str | Path) -> LabelValues:
    """Read the meaning of label values from a classes.toml, or take that of a named label set,
    e.g. "cocostuff27".

    Raises:
        InputError: the file cannot be used, or there is no such label set.
    """
    path = Path(classes)
    if path.suffix == ".toml" or path.is_file():
        coding = read_coding(path)
        return LabelValues(coding.classes, coding=coding)
    return LabelValues(*named_labels(str(classes)), name=str(classes))


@dataclass(frozen=True)
class FolderOptions:
    """Options of `score_folders`.

    Attributes:
        prediction_suffix: ending of prediction names before ".png"; other files are skipped.
        label_suffix: ending of label names before ".png", e.g. "_gtFine_labelIds".
        unpredicted: predicted value that means "no prediction": its pixels are errors, and it is
            never matched to a class.
        progress: whether to show a progress bar on a terminal.
    """

    prediction_suffix: str = ""
    label_suffix: str = ""
    unpredicted: int | None = None
    progress: bool = True


_DEFAULTS = FolderOptions()


def score_folders(
    predictions: str | Path,
    labels: str | Path,
    classes: str | Path | LabelValues,
    matching: str = "one-to-one",
    *,
    bootstrap: int = RESAMPLES,
    options: FolderOptions = _DEFAULTS,
) -> Evaluation:
    """Score a folder of predicted index maps against a folder of label maps.

    Both are searched recursively for PNGs; of a folder that `picie predict` wrote, the label maps
    are used. A label and its prediction have the same relative path, except for their suffixes.
    Nothing is resized: every pixel of a label counts, unless it is ignored.

    Args:
        predictions: folder of index maps with integers from 0 to 65535: clusters or classes.
        labels: folder of label maps.
        classes: a classes.toml, the name of a label set, or the result of `label_values`.
        matching: a key of `picie.scoring.metrics.MATCHINGS`.
        bootstrap: number of bootstrap resamples for the confidence intervals; 0 computes none.
        options: how files are paired and values are read.

    Raises:
        InputError: the matching is unknown, a folder does not exist, a label has no prediction,
            sizes differ, a file is not an index map, or no pixel is labelled.
    """
    check_resamples(bootstrap)
    if matching not in MATCHINGS:
        raise InputError(f"unknown matching {matching!r}; {nearest(matching, MATCHINGS)}")
    values = classes if isinstance(classes, LabelValues) else label_values(classes)
    pairs = pair_files(Path(predictions), Path(labels), options.prediction_suffix, options.label_suffix)
    unpredicted = options.unpredicted
    with Progress(options.progress) as bars, bars.bar("score", len(pairs)) as advance:
        counted, near = [], []
        for confusion, confusion_near in read_ahead(lambda pair: _count(*pair, values, unpredicted), pairs):
            counted.append(confusion)
            near.append(confusion_near)
            advance(1)
    borders = np.asarray(_stack(near, len(values.classes), unpredicted)[0].sum(0)).reshape(len(values.classes), -1)
    counts, void = _stack(counted, len(values.classes), unpredicted)
    if not counts.nnz:
        raise InputError(f"{labels}: every pixel is ignored ({values.classes.ignore}); do the labels match --classes?")
    used = np.flatnonzero(np.asarray(counts.sum(0)).reshape(len(values.classes), -1).any(0))
    used = used[used != void] if void is not None else used
    _warn_about_values(used, values.classes, matching, unpredicted)
    scope = "whole label maps" + ("" if unpredicted is None else f", value {unpredicted} predicts nothing")
    seen, warnings = values.summary()
    for line in warnings:
        log.warning("%s", line)
    result = replace(summarise(counts, values.classes, matching, scope, void, len(used)), labels=seen, borders=borders)
    return with_intervals(result, bootstrap)


def _warn_about_values(used: np.ndarray, classes: ClassMap, matching: str, unpredicted: int | None) -> None:
    """Warn about predicted values that look like a mistake. They are counted as they are."""
    unknown = used[used >= len(classes)]
    if matching == "identity" and len(unknown):
        log.warning(
            "%d predicted values are not classes (0..%d), the first is %d: their pixels count as errors; "
            "do the predictions use ids of another label set?",
            len(unknown),
            len(classes) - 1,
            unknown[0],
        )
    elif unpredicted is None and matching != "identity" and 255 in used and len(used) < 255:
        log.warning("value 255 is predicted and counts as a cluster; if it means no prediction, add --unpredicted 255")


def pair_files(predictions: Path, labels: Path, prediction_suffix: str = "", label_suffix: str = "") -> list[tuple[Path, Path]]:
    """Pair each label with its prediction, as (prediction, label), sorted by name.

    Raises:
        InputError: a folder does not exist or has no such files, or a label has no prediction.
    """
    label_files = _index_maps(labels, label_suffix, "--label-suffix")
    prediction_files = _predicted(predictions, prediction_suffix)
    missing = [key for key in label_files if key not in prediction_files]
    if missing:
        expected = predictions / f"{missing[0]}{prediction_suffix}.png"
        raise InputError(
            f"{len(missing)} of {len(label_files)} labels have no prediction; the first is {label_files[missing[0]]}, which "
            f"needs {expected}; add the predictions, or set how names end with --label-suffix and --prediction-suffix"
        )
    extra = [path for key, path in prediction_files.items() if key not in label_files]
    if extra:
        log.info("skipped %d PNGs without a label, the first is %s", len(extra), extra[0])
    return [(prediction_files[key], label_files[key]) for key in label_files]


def _predicted(folder: Path, suffix: str) -> dict[str, Path]:
    """The predicted maps in `folder`, by relative path without `suffix` and ending."""
    if not (folder / FILE_NAME).is_file():
        return _index_maps(folder, suffix, "--prediction-suffix")
    images = [image for image in open_predictions(folder).images if image.name.endswith(suffix)]
    if not images:
        raise InputError(f"{folder}: has no prediction whose name ends in {suffix}; is --prediction-suffix right?")
    return {image.name.removesuffix(suffix): image.current_labels() for image in images}


def _index_maps(folder: Path, suffix: str, option: str) -> dict[str, Path]:
    """All PNGs in `folder` whose name ends in `suffix`, by relative path without `suffix` and
    ".png". Legends and overlays of `picie predict` are left out.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of index PNGs")
    files: dict[str, Path] = {}
    for path in find_images(folder):
        if path.suffix.lower() == ".png" and path.stem.endswith(suffix) and is_label_map(path, folder):
            key = (path.parent / path.stem.removesuffix(suffix)).relative_to(folder).as_posix()
            if key in files:
                raise InputError(f"{files[key]} and {path} differ only in the case of their ending; keep one")
            files[key] = path
    if not files:
        advice = f" whose name ends in {suffix}.png; is {option} right?" if suffix else "; give a folder of index PNGs"
        raise InputError(f"{folder}: contains no PNG{advice}")
    return files


def _count(prediction: Path, label: Path, values: LabelValues, unpredicted: int | None) -> tuple[Any, Any]:
    """Sparse (C, largest value + 1) confusion of one pair, and that of its pixels near borders.

    `unpredicted` gets an extra first column.
    """
    truth, predicted = values.read(label), open_label(prediction)
    if truth.shape != predicted.shape:
        sizes = [f"{path} is {array.shape[1]}x{array.shape[0]}" for path, array in ((prediction, predicted), (label, truth))]
        raise InputError(f"{' but '.join(sizes)}; predictions must have the size of their labels")
    predicted = predicted.astype(np.int64)
    if predicted.min() < 0 or predicted.max() > _MAX_VALUE:
        raise InputError(f"{prediction}: holds values outside 0..{_MAX_VALUE}; renumber the clusters")
    if unpredicted is not None:
        predicted = np.where(predicted == unpredicted, 0, predicted + 1)
    n, k, ignore = len(values.classes), int(predicted.max()) + 1, values.classes.ignore
    near = without_interior(truth, ignore)
    return coo_array(confusion_matrix(truth, predicted, n, k, ignore)), coo_array(
        confusion_matrix(near, predicted, n, k, ignore)
    )


def _stack(counted: Sequence[Any], n_classes: int, unpredicted: int | None) -> tuple[Any, int | None]:
    """Stack the counts of all images.

    Returns:
        (N, C * K) counts, and the column of pixels without a prediction or None. It is the last
        column, so that the other column indices remain the predicted values.
    """
    k = max(confusion.shape[1] for confusion in counted)
    if unpredicted is None:
        return stack_counts(counted, n_classes, k), None
    moved = [coo_array((c.data, (c.row, (c.col - 1) % k)), shape=(n_classes, k)) for c in counted]
    return stack_counts(moved, n_classes, k), k - 1
