"""Datasets, and loading their images in batches."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from picie import registry
from picie.config import DataConfig
from picie.data.base import Dataset
from picie.errors import InputError


def open_dataset(config: DataConfig, split: str) -> Dataset:
    """Open one split of the dataset named in `config`.

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
    arguments = {"root": Path(config.root)} if config.root is not None else {}
    dataset: Dataset = dataset_class(split=split, **arguments)
    return dataset


def takes_folder(name: str) -> bool:
    """Whether the dataset `name` has a folder (`root`).

    Raises `InputError` if the name is unknown.
    """
    return "root" in inspect.signature(registry.find(registry.DATASETS, name, "data.name")).parameters
