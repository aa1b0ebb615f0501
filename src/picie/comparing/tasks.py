"""Tasks of an ablation: the images to train on, those to score, and K.

A setting that wins on one split may lose on the next one, so a default is chosen by its mean over
several tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from picie.config import Config, Layer, read_toml
from picie.data.base import MissingSplitError
from picie.data.folder import Folder
from picie.errors import InputError

_SPLITS = ("train", "val")
_MAX_FOLDS = 20


def plan_tasks(path: Path | None, folds: int | None, config: Config) -> dict[str, Sequence[Layer]]:
    """The tasks of an ablation: those of a file, then the folds of the dataset of all runs.

    Args:
        path: file for `read_tasks`, or None.
        folds: number of characters for `folds_of`, or None.
        config: the options of all runs.

    Returns:
        The options of each task, by its name. Without file and folds there is one task "", of the
        dataset as it is.
    """
    tasks: dict[str, Sequence[Layer]] = {}
    if path is not None:
        tasks |= read_tasks(path, config)
    if folds is not None:
        tasks |= {name: [options] for name, options in folds_of(config.data.root, folds).items()}
    return tasks or {"": ()}


def read_tasks(path: Path, config: Config) -> dict[str, Sequence[Layer]]:
    """Read a file of tasks: a TOML file with a table of options for each.

    Args:
        path: the file. Besides options, a table may have `folds`, see `folds_of`.
        config: the options of all runs.

    Returns:
        The options of each task, by its name.

    Raises:
        InputError: the file is not such a file.
    """
    tasks: dict[str, Sequence[Layer]] = {}
    for name, table in read_toml(path).items():
        if not isinstance(table, Mapping):
            raise InputError(f"--tasks {path}: {name!r} is not in a table; write a [table] of options for each task")
        options = dict(table)
        length = options.pop("folds", None)
        if length is None:
            tasks[name] = [options]
            continue
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise InputError(f"--tasks {path}: {name}: folds = {length!r} must be a number of characters, at least 1")
        for fold, held_out in folds_of(_root(options, config), length).items():
            tasks[f"{name} {fold}"] = [options, held_out]
    if not tasks:
        raise InputError(f"--tasks {path}: it is empty; write a [table] of options for each task")
    return tasks


def folds_of(root: str | None, length: int) -> dict[str, dict[str, Any]]:
    """Make a task of every group of images in a labelled folder, held out in turn.

    The groups are images whose names start with the same characters, e.g. the frames of one video.
    Neighbouring frames are nearly equal, so a score on frames of a video that training has seen
    says little about new videos.

    Args:
        root: the labelled folder.
        length: number of characters that name the group.

    Returns:
        The options of each task, by the name of the group that is held out.

    Raises:
        InputError: the folder has no labels, or only one group.
    """
    if root is None:
        raise InputError("folds: DATA is missing; give a labelled folder")
    splits, groups = [], set()
    for split in _SPLITS:
        try:
            images = Folder(root, split)
        except MissingSplitError:
            continue
        if images.classes is None:
            raise InputError(f"{root}: folds need labels; {images.why_unlabelled or 'add images/, labels/ and classes.toml'}")
        splits.append(split)
        groups |= {PurePosixPath(images.name(i)).name[:length] for i in range(len(images))}
    if len(groups) < 2:
        raise InputError(f"{root}: all names start with the same {length} characters, so there is one fold; give more")
    if len(groups) > _MAX_FOLDS:
        raise InputError(f"{root}: {len(groups):,} different starts of {length} characters are too many folds; give fewer")
    joined = "+".join(splits)
    return {
        group: {"data": {"train_split": joined, "held_out": [f"{_literal(group)}*"]}, "evaluate": {"split": joined}}
        for group in sorted(groups)
    }


def _root(options: Mapping[str, Any], config: Config) -> str | None:
    """The folder of a task's dataset."""
    data = options.get("data")
    root: str | None = data.get("root", config.data.root) if isinstance(data, Mapping) else config.data.root
    return root


def _literal(text: str) -> str:
    """A pattern that fits only `text`."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
