"""`picie score`: anybody's label maps against the labels, under the same counts, matchings and ratios as a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from picie.data.base import ClassMap
from picie.data.folder import check_label, read_classes
from picie.data.images import find_images, open_label
from picie.data.labels import named_labels
from picie.data.loading import read_ahead
from picie.errors import InputError, nearest
from picie.runtime.progress import Progress, log
from picie.scoring.intervals import RESAMPLES
from picie.scoring.metrics import MATCHINGS, confusion_matrix
from picie.scoring.results import Evaluation, stack_counts, summarise, with_intervals

_HIGHEST = 65535


@dataclass(frozen=True)
class LabelValues:
    """What stored label values mean.

    Attributes:
        classes: the classes.
        lookup: (256,) the class, or ignore, of each stored value; None where values are classes already.
    """

    classes: ClassMap
    lookup: np.ndarray | None = None

    def read(self, path: Path) -> np.ndarray:
        """(H, W) classes or ignore. Raises `InputError` for a file that is no label map, and for values without a meaning."""
        label = open_label(path)
        if self.lookup is None:
            check_label(label, self.classes, path)
            return label
        wrong = label[(label < 0) | (label >= len(self.lookup))]
        if wrong.size:
            raise InputError(f"{path}: label value {int(wrong[0])} is not in 0..{len(self.lookup) - 1}; mend the label")
        classes: np.ndarray = self.lookup[label]
        return classes


def label_values(classes: str | Path) -> LabelValues:
    """What label values mean, by a classes.toml or by the name of a label set, e.g. "cocostuff27". Raises `InputError`."""
    path = Path(classes)
    if path.suffix == ".toml" or path.is_file():
        return LabelValues(read_classes(path))
    return LabelValues(*named_labels(str(classes)))


def score_folders(
    predictions: str | Path,
    labels: str | Path,
    classes: str | Path | LabelValues,
    matching: str = "one-to-one",
    *,
    prediction_suffix: str = "",
    label_suffix: str = "",
    unpredicted: int | None = None,
    bootstrap: int = RESAMPLES,
    progress: bool = True,
) -> Evaluation:
    """Score a folder of predicted index maps against a folder of label maps.

    Files are PNGs, in folders below, too. A label and its prediction have equal paths, but for the endings of their names.
    Nothing is resized: every label's pixel counts that is not ignore.

    Args:
        predictions: the folder of index maps: any integers from 0 to 65535, of clusters or of classes.
        labels: the folder of label maps.
        classes: a classes.toml, the name of a label set, or what `label_values` gives.
        matching: a key of `picie.scoring.metrics.MATCHINGS`.
        prediction_suffix: ending of prediction names, before ".png"; others are passed over.
        label_suffix: the same of labels, e.g. "_gtFine_labelIds".
        unpredicted: the predicted value that stands for no prediction: its pixels are errors, and it is never matched.
        bootstrap: resamples of the images for confidence intervals; 0 for none.
        progress: show a bar, on a terminal.

    Raises:
        InputError: an unknown matching, no such folder, a label without its prediction, sizes that differ, files that are no
            index maps, or no labelled pixel.
    """
    if matching not in MATCHINGS:
        raise InputError(f"unknown matching {matching!r}; {nearest(matching, MATCHINGS)}")
    values = classes if isinstance(classes, LabelValues) else label_values(classes)
    pairs = pair_files(Path(predictions), Path(labels), prediction_suffix, label_suffix)
    with Progress(progress) as bars, bars.bar("score", len(pairs)) as advance:
        counted = []
        for confusion in read_ahead(lambda pair: _count(*pair, values, unpredicted), pairs):
            counted.append(confusion)
            advance(1)
    counts, void = _stack(counted, len(values.classes), unpredicted)
    if not counts.nnz:
        raise InputError(f"{labels}: no labelled pixel: all are ignore ({values.classes.ignore}); are these the --classes?")
    used = np.flatnonzero(np.asarray(counts.sum(0)).reshape(len(values.classes), -1).any(0))
    used = used[used != void] if void is not None else used
    _remark(used, values.classes, matching, unpredicted)
    scope = "whole label maps" + ("" if unpredicted is None else f", value {unpredicted} predicts nothing")
    return with_intervals(summarise(counts, values.classes, matching, scope, void, len(used)), bootstrap)


def _remark(used: np.ndarray, classes: ClassMap, matching: str, unpredicted: int | None) -> None:
    """Say what predicted values look like a mistake: they count as they are."""
    beyond = used[used >= len(classes)]
    if matching == "identity" and len(beyond):
        log.warning(
            "%d predicted values are no class (0..%d), the first %d: their pixels are errors; are they ids of other labels?",
            len(beyond),
            len(classes) - 1,
            beyond[0],
        )
    elif unpredicted is None and matching != "identity" and 255 in used and len(used) < 255:
        log.warning("value 255 is predicted, and counts as a cluster; if it stands for none, say so: --unpredicted 255")


def pair_files(predictions: Path, labels: Path, prediction_suffix: str = "", label_suffix: str = "") -> list[tuple[Path, Path]]:
    """(prediction, label) of each label, in the order of their names. Raises `InputError` as `score_folders` does."""
    wanted = _index_maps(labels, label_suffix, "--label-suffix")
    found = _index_maps(predictions, prediction_suffix, "--prediction-suffix")
    missing = [key for key in wanted if key not in found]
    if missing:
        first = predictions / f"{missing[0]}{prediction_suffix}.png"
        raise InputError(
            f"{len(missing)} of {len(wanted)} labels have no prediction; the first: {wanted[missing[0]]} asks for {first}; add "
            "them, or say how names end with --label-suffix and --prediction-suffix"
        )
    extra = [path for key, path in found.items() if key not in wanted]
    if extra:
        log.info("PNGs without a label are passed over: %d, the first %s", len(extra), extra[0])
    return [(found[key], wanted[key]) for key in wanted]


def _index_maps(folder: Path, suffix: str, option: str) -> dict[str, Path]:
    """Path below `folder`, without `suffix` and ".png" -> file, of all PNGs that end so."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of index PNGs")
    found: dict[str, Path] = {}
    for path in find_images(folder):
        if path.suffix.lower() == ".png" and path.stem.endswith(suffix):
            key = (path.parent / path.stem.removesuffix(suffix)).relative_to(folder).as_posix()
            if key in found:
                raise InputError(f"{found[key]} and {path} have the same name but for its case; keep one")
            found[key] = path
    if not found:
        ending = f" that ends in {suffix}.png; is {option} right?" if suffix else "; give a folder of index PNGs"
        raise InputError(f"{folder}: no PNG in it or below it{ending}")
    return found


def _count(prediction: Path, label: Path, values: LabelValues, unpredicted: int | None) -> Any:
    """Sparse (C, highest value + 1) confusion of one pair; with `unpredicted`, a column for it comes before the others."""
    truth, predicted = values.read(label), open_label(prediction)
    if truth.shape != predicted.shape:
        sizes = [f"{path} is {array.shape[1]}x{array.shape[0]}" for path, array in ((prediction, predicted), (label, truth))]
        raise InputError(f"{' but '.join(sizes)}; predictions must have the size of their labels")
    predicted = predicted.astype(np.int64)
    if predicted.min() < 0 or predicted.max() > _HIGHEST:
        raise InputError(f"{prediction}: holds values that are not in 0..{_HIGHEST}; number the clusters anew")
    if unpredicted is not None:
        predicted = np.where(predicted == unpredicted, 0, predicted + 1)
    classes = values.classes
    return coo_array(confusion_matrix(truth, predicted, len(classes), int(predicted.max()) + 1, classes.ignore))


def _stack(counted: Sequence[Any], n_classes: int, unpredicted: int | None) -> tuple[Any, int | None]:
    """(N, C * K) counts of all images, and the column of pixels without a prediction: the last one, so that the others are
    values still.
    """
    k = max(confusion.shape[1] for confusion in counted)
    if unpredicted is None:
        return stack_counts(counted, n_classes, k), None
    last_first = [coo_array((c.data, (c.row, (c.col - 1) % k)), shape=(n_classes, k)) for c in counted]
    return stack_counts(last_first, n_classes, k), k - 1
