"""`picie data check`: what a dataset's folder holds, what it lacks, and whether its splits can be used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import typer

from picie import registry
from picie.config import DataConfig
from picie.data import open_dataset, takes_folder
from picie.data.base import Dataset
from picie.data.folder import check_label
from picie.data.layout import DATASET_FOLDER, Part, existing_folder
from picie.errors import InputError, UnreadableImageError

_SPLITS = ("train", "val")
_LOOKED_AT = 5  # images of each split


def check(name: str, root: Path | None) -> None:
    """Print what the folder `root` holds of the dataset `name`, and what is missing.

    Args:
        name: a name from `picie list datasets`, or my_module:MyDataset.
        root: its folder; None for a dataset without one.

    Raises:
        InputError: an unknown name, no folder, or, after the report, "train" or "val" cannot be used.
    """
    made: Any = registry.find(registry.DATASETS, name, "data check")
    reads_folder = takes_folder(name)
    if reads_folder and root is None:
        raise InputError(f"ROOT is missing; give the folder of {name}: picie data check {name} ROOT")
    folder = str(existing_folder(root, DATASET_FOLDER)) if reads_folder and root is not None else None
    source = DataConfig(name=name, root=folder)
    typer.echo(f"{name}: {(inspect.getdoc(made) or '').partition(chr(10))[0]}")
    not_needed = f"{name} needs no folder" + (f"; {root} is not looked at" if root else "")
    typer.echo(f"  in {root}" if reads_folder else f"  {not_needed}")
    problems = []
    parts: list[Part] = made.parts(root) if hasattr(made, "parts") else []
    for part in parts:
        typer.echo(_part_line(part))
        if part.needed and not part.found:
            problems.append(f"no {part.name} in {part.where}")
    for split in _SPLITS:
        for text, is_problem in _split_findings(source, split):
            typer.echo(f"  {'!' if is_problem else ' '} split {split}: {text}")
            if is_problem:
                problems.append(f"split {split}: {text}")
    if hasattr(made, "tree"):
        typer.echo(f"expected:{made.tree}")
    if problems:
        more = f" (and {len(problems) - 1} more, marked ! above)" if len(problems) > 1 else ""
        raise InputError(f"{name} cannot be used for train and val as it is: {problems[0]}{more}")


def _part_line(part: Part) -> str:
    """E.g. "    labels of val2017: 8 of 5,000, a subset, in annotations/val2017"."""
    if not part.found:
        kind = "missing and needed" if part.needed else "missing, optional"
        return f"  {'!' if part.needed else ' '} {part.name}: {kind}; looked in {part.where}; {part.use}"
    amount = f"{part.found:,}"
    if part.complete is not None:
        less, more = part.found < part.complete, part.found > part.complete
        amount += f" of {part.complete:,}" + (", a subset" if less else ", more than the full dataset has" if more else "")
    return f"    {part.name}: {amount}, in {part.where}"


def _split_findings(source: DataConfig, split: str) -> Iterator[tuple[str, bool]]:
    """What there is to say of a split, and whether it is a reason not to use it."""
    try:
        dataset = open_dataset(source, split)
    except InputError as error:
        yield str(error), True
        return
    yield f"{len(dataset):,} images, {'no labels' if dataset.classes is None else f'{len(dataset.classes)} classes'}", False
    if dataset.classes is not None and hasattr(dataset, "label_path"):
        missing = [i for i in range(len(dataset)) if not dataset.label_path(i).is_file()]
        if missing:  # only val has to be scored
            yield f"{len(missing):,} images without a label, the first {dataset.name(missing[0])}", split == "val"
    yield from _looks(dataset)


def _looks(dataset: Dataset) -> Iterator[tuple[str, bool]]:
    """What a look at some images and their labels, spread over the split, finds."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, _LOOKED_AT).astype(int)).tolist()
    unreadable, labels = 0, 0
    for index in indices:
        try:
            width, height = dataset.image(index).size
            if dataset.classes is not None:
                label = dataset.label(index)
                check_label(label, dataset.classes, dataset.name(index))
                if label.shape != (height, width):
                    size = f"{label.shape[1]}x{label.shape[0]}"
                    raise InputError(f"{dataset.name(index)}: label is {size} but its image {width}x{height}")
                labels += 1
        except UnreadableImageError as error:
            unreadable += 1
            yield str(error), unreadable == len(indices)  # training skips a few
        except InputError as error:
            yield str(error), True
    fitting = "" if dataset.classes is None else f"; {labels} of their labels fit in values and size"
    yield f"of {len(indices)} images looked at, {len(indices) - unreadable} can be read{fitting}", False
