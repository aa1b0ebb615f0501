"""`picie data check`: report what a dataset's folder contains and whether it can be used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from picie import registry
from picie.config import DataConfig
from picie.data import open_dataset, takes_folder
from picie.data.base import Dataset
from picie.data.label_coding import check_label
from picie.data.layout import DATASET_FOLDER, Part, existing_folder
from picie.errors import InputError, UnreadableImageError

_SPLITS = ("train", "val")
_SAMPLED_IMAGES = 5  # number of images checked in each split


def check(name: str, root: Path | None) -> Iterator[str]:
    """Yield the lines of a report on the folder `root` of the dataset `name`.

    Args:
        name: a name from `picie list datasets`, or my_module:MyDataset.
        root: the dataset's folder; None for a dataset without one.

    Raises:
        InputError: unknown name, no folder, or, after the last line, "train" or "val" cannot be
            used.
    """
    dataset_class: Any = registry.find(registry.DATASETS, name, "data check")
    needs_folder = takes_folder(name)
    if needs_folder and root is None:
        raise InputError(f"ROOT is missing; give the folder of {name}: picie data check {name} ROOT")
    folder = str(existing_folder(root, DATASET_FOLDER)) if needs_folder and root is not None else None
    config = DataConfig(name=name, root=folder)
    yield f"{name}: {(inspect.getdoc(dataset_class) or '').partition(chr(10))[0]}"
    not_needed = f"{name} needs no folder" + (f"; {root} is ignored" if root else "")
    yield f"  in {root}" if needs_folder else f"  {not_needed}"
    problems = []
    parts: list[Part] = dataset_class.parts(root) if hasattr(dataset_class, "parts") else []
    for part in parts:
        yield _part_line(part)
        if part.needed and not part.count:
            problems.append(f"no {part.name} in {part.where}")
    for split in _SPLITS:
        for text, is_problem in _check_split(config, split):
            yield f"  {'!' if is_problem else ' '} split {split}: {text}"
            if is_problem:
                problems.append(f"split {split}: {text}")
    if hasattr(dataset_class, "tree"):
        yield f"expected:{dataset_class.tree}"
    if problems:
        more = f" (and {len(problems) - 1} more, marked ! above)" if len(problems) > 1 else ""
        raise InputError(f"{name} cannot be used for train and val as it is: {problems[0]}{more}")


def _part_line(part: Part) -> str:
    """E.g. "    labels of val2017: 8 of 5,000, a subset, in annotations/val2017"."""
    if not part.count:
        kind = "missing, required" if part.needed else "missing, optional"
        return f"  {'!' if part.needed else ' '} {part.name}: {kind}; looked in {part.where}; {part.use}"
    amount = f"{part.count:,}"
    if part.complete is not None:
        less, more = part.count < part.complete, part.count > part.complete
        amount += f" of {part.complete:,}" + (", a subset" if less else ", more than the full dataset has" if more else "")
    return f"    {part.name}: {amount}, in {part.where}"


def _check_split(config: DataConfig, split: str) -> Iterator[tuple[str, bool]]:
    """Yield findings about a split, and whether each prevents its use."""
    try:
        dataset = open_dataset(config, split)
    except InputError as error:
        yield str(error), True
        return
    yield f"{len(dataset):,} images, {'no labels' if dataset.classes is None else f'{len(dataset.classes)} classes'}", False
    search = getattr(dataset, "search", None)
    if search is not None and search.left_out:
        yield search.summary(), False
    if dataset.classes is not None and hasattr(dataset, "label_path"):
        missing = [i for i in range(len(dataset)) if not dataset.label_path(i).is_file()]
        if missing:  # a problem only in val, the split that is scored
            yield f"{len(missing):,} images without a label, the first {dataset.name(missing[0])}", split == "val"
    yield from _check_sample(dataset)


def _check_sample(dataset: Dataset) -> Iterator[tuple[str, bool]]:
    """Open some images and labels, evenly spaced over the split, and yield findings."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED_IMAGES).astype(int)).tolist()
    n_unreadable, n_labels = 0, 0
    for index in indices:
        try:
            width, height = dataset.image(index).size
            if dataset.classes is not None:
                label = dataset.label(index)
                check_label(label, dataset.classes, dataset.name(index))
                if label.shape != (height, width):
                    size = f"{label.shape[1]}x{label.shape[0]}"
                    raise InputError(f"{dataset.name(index)}: label is {size} but its image {width}x{height}")
                n_labels += 1
        except UnreadableImageError as error:
            n_unreadable += 1
            yield str(error), n_unreadable == len(indices)  # training skips unreadable images
        except InputError as error:
            yield str(error), True
    labels = "" if dataset.classes is None else f"; {n_labels} have a valid label of the same size"
    yield f"of {len(indices)} images checked, {len(indices) - n_unreadable} can be read{labels}", False
