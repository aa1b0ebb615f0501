"""Datasets, and loading their images in batches."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from picie import registry
from picie.config import DataConfig
from picie.data.base import Dataset
from picie.data.folder import Folder
from picie.data.images import measure_scales
from picie.data.layout import EncodedImages, ImageFiles
from picie.data.scaling import Reading
from picie.errors import InputError


def open_dataset(config: DataConfig, split: str, part: Literal["train", "scored", "all"] = "all") -> Dataset:
    """Open one split of the dataset named in `config`.

    Args:
        config: section [data].
        split: name of the split.
        part: with `data.held_out`, "train" leaves out the images whose file names fit one of its
            patterns, and "scored" opens only these.

    Raises:
        InputError: unknown dataset, a root that is missing or not supported, or an error of the
            dataset.
    """
    dataset_class: Any = registry.find(registry.DATASETS, config.name, "data.name")
    takes_root = takes_folder(config.name)
    if takes_root and config.root is None:
        raise InputError(f"data.root: dataset {config.name!r} needs a folder; give data.root=FOLDER")
    if not takes_root and config.root is not None:
        raise InputError(f"data.root: dataset {config.name!r} takes no folder; leave out data.root={config.root}")
    arguments: dict[str, Any] = {"root": Path(config.root)} if config.root is not None else {}
    parameters = inspect.signature(dataset_class).parameters
    for option in ("include", "exclude", "label_suffix"):
        if value := getattr(config, option):
            if option not in parameters:
                raise InputError(f"data.{option}: dataset {config.name!r} does not support it; leave it out")
            arguments[option] = value
    dataset: Dataset = dataset_class(split=split, **arguments)
    if config.held_out:
        if not isinstance(dataset, Folder):
            raise InputError(f"data.held_out: dataset {config.name!r} does not support it; leave it out")
        if part != "all":
            dataset.keep(lambda name: _is_held_out(name, config.held_out) == (part == "scored"))
    if isinstance(dataset, EncodedImages):
        dataset.reading = Reading(config.scale, config.max_pixels, config.bands)
    return dataset


def _is_held_out(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(PurePosixPath(name).name, pattern) for pattern in patterns)


def with_scale(config: DataConfig, dataset: Dataset) -> DataConfig:
    """Return `config` with a scale for images of more than 8 bits, measured unless it states one.

    From then on, `dataset` uses this scale.
    """
    if config.scale or not isinstance(dataset, ImageFiles):
        return config
    dataset.reading = dataset.reading.with_scales(measure_scales(dataset.paths, dataset.reading))
    return config.model_copy(update={"scale": dict(dataset.reading.scales)})


def label_summary(dataset: Dataset) -> tuple[dict[str, Any] | None, list[str]]:
    """Summarise the labels that `dataset` has read, with warnings about their values.

    Custom datasets that do not count label values give None and no warnings.
    """
    summarise = getattr(dataset, "label_summary", None)
    return (None, []) if summarise is None else summarise()


def takes_folder(name: str) -> bool:
    """Whether the dataset `name` has a folder (`root`).

    Raises `InputError` if the name is unknown.
    """
    return "root" in inspect.signature(registry.find(registry.DATASETS, name, "data.name")).parameters


def split_title(split: str, data: DataConfig) -> str:
    """The scored split for the protocol, e.g. "val", or "train+val, held out 0016E5*"."""
    return f"{split}, held out {', '.join(data.held_out)}" if data.held_out else split
