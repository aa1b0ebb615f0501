"""Options of a run as keywords, by the short names that `picie train` takes as flags."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from picie import registry
from picie.config import Config, all_sections, code_names, load
from picie.errors import InputError, nearest

SHORT_NAMES = {
    "clusters": "cluster.k",
    "epochs": "train.epochs",
    "seed": "seed",
    "method": "method",
    "backbone": "model.backbone",
    "size": "views.size",
    "batch_size": "train.batch_size",
    "include": "data.include",
    "exclude": "data.exclude",
    "lr": "train.lr",
    "device": "run.device",
    "workers": "run.workers",
}
"""The option that each short name sets."""

_CLUSTERS = {"k", "K", "n_clusters", "num_clusters"}  # names of `clusters` elsewhere
_OBJECT = re.compile(r"[A-Za-z_][\w]+(\.\w+)*:[A-Za-z_]\w*")  # my_module:MyDataset, but not C:photos


class Keywords(TypedDict, total=False):
    """Further options of `picie.train`: short names, and sections as dictionaries."""

    preset: str | None
    config: str | os.PathLike[str] | None
    seed: int | None
    method: str | None
    backbone: str | None
    size: int | None
    batch_size: int | None
    include: str | list[str] | None
    exclude: str | list[str] | None
    lr: float | None
    device: str | None
    workers: int | None
    data: Mapping[str, Any]
    views: Mapping[str, Any]
    model: Mapping[str, Any]
    cluster: Mapping[str, Any]
    loss: Mapping[str, Any]
    train: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    run: Mapping[str, Any]


def config_of(data: str | os.PathLike[str], keywords: Mapping[str, Any]) -> Config:
    """Return the configuration for `data` and keyword arguments.

    Args:
        data: a folder of images, or the name of a dataset.
        keywords: short names, sections as dictionaries, preset and config; see `Keywords`. Code
            that they name is trusted, because the caller wrote it.

    Raises:
        InputError: a keyword is unknown or given twice, or a value is invalid.
    """
    given = {key: value for key, value in keywords.items() if value is not None}
    preset, file = given.pop("preset", None), given.pop("config", None)
    short = {SHORT_NAMES[name]: given.pop(name) for name in list(given) if name in SHORT_NAMES}
    from_data = data_settings(os.fspath(data))
    values: dict[str, Any] = {}
    for name, section in given.items():
        if not isinstance(section, Mapping):
            known = [*SHORT_NAMES, *all_sections(), "preset", "config"]
            hint = "write clusters=K" if name in _CLUSTERS else nearest(name, known)
            raise InputError(f"{name} = {section!r}: no such option; {hint}")
        values[name] = dict(section)
    for option, setting in {**short, **from_data}.items():
        name, _, entry = option.rpartition(".")
        into = values.setdefault(name, {}) if name else values
        if into.get(entry, setting) != setting:
            raise InputError(f"{option} is given twice, as {into[entry]!r} and as {setting!r}; give it once")
        into[entry] = setting
    registry.trust(code_names(values))
    return load(preset, None if file is None else Path(file), [values])


def data_settings(data: str) -> dict[str, str]:
    """Return the options that DATA sets: data.root for a folder, data.name for a dataset, both for
    a pattern of tar files.

    Raises `InputError` if there is no folder or dataset of that name.
    """
    if _names_shards(data):
        return {"data.name": "webdataset", "data.root": data}
    if not Path(data).exists() and (data in registry.DATASETS or _OBJECT.fullmatch(data)):
        return {"data.name": data}
    if not Path(data).exists() and ("\\" in data or ":" in data):
        from picie.data.layout import existing_folder  # imports Pillow and NumPy

        existing_folder(data)  # explains paths of Windows and addresses
    if not Path(data).exists() and Path(data).name == data:
        hint = nearest(data, registry.DATASETS)
        advice = hint if hint.startswith("did") else "give a folder of images or a name from picie list datasets"
        raise InputError(f"{data}: no such folder, and no dataset of that name; {advice}")
    return {"data.root": data}


def _names_shards(text: str) -> bool:
    if ".tar" not in text or Path(text).is_dir():
        return False
    from picie.data.shards import is_pattern  # imports Pillow and NumPy

    return is_pattern(text)


def default_folder(config: Config) -> Path:
    """Return a new folder for a run: runs/DATA-METHOD-kK-sSEED, with a number if that exists."""
    root = None if config.data.root is None else Path(config.data.root).resolve()
    if root is not None and _names_shards(str(root)):
        root = root.parent
    name = config.data.name.split(":")[-1] if root is None else root.name
    stem = f"{name}-{config.method.split(':')[-1]}-k{config.cluster.k}-s{config.seed}"
    candidates = [Path("runs") / stem, *(Path("runs") / f"{stem}-{i}" for i in range(2, 1000))]
    return next(path for path in candidates if not path.exists())
