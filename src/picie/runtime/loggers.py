"""Elsewhere that an epoch's line goes: TensorBoard and Weights & Biases, by `run.loggers`. metrics.jsonl stays the source."""

from __future__ import annotations

import importlib
import os
import tomllib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from picie.errors import InputError


class Logger(Protocol):
    """Takes an epoch's line of metrics.jsonl."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Add the numbers of `line` as a point at its epoch."""
        ...

    def close(self) -> None:
        """Write out what is held back."""
        ...


def numbers(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line by name; those of lists are numbered from 1, those of sections named "section/key".

    >>> list(numbers({"epoch": 1, "inertia": [0.2, 0.3], "seconds": {"train": 2.5}, "protocol": "val", "miou": None}))
    [('inertia/1', 0.2), ('inertia/2', 0.3), ('seconds/train', 2.5)]
    """
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}/")
        elif isinstance(value, list | tuple):
            yield from numbers({str(i): item for i, item in enumerate(value, 1)}, f"{prefix}{key}/")
        elif isinstance(value, int | float) and prefix + key != "epoch":
            yield prefix + key, float(value)


class TensorBoard:
    """Event files in `folder`/tensorboard.

    Args:
        folder: the run's folder.
        key: not needed.
        purge: the first epoch to come, where the run is gone on with: what is there of it and later ones is dropped.
    """

    def __init__(self, folder: Path, key: str, purge: int | None) -> None:
        module: Any = importlib.import_module(_MODULES["tensorboard"])
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add the numbers of `line` as a point at its epoch."""
        for name, value in numbers(line):
            self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Write out what is held back."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, gone on with where the run is; WANDB_MODE=offline and its other variables hold.

    Args:
        folder: the run's folder.
        key: the run's id there.
        purge: not needed: of a step that is there already no second point is taken.
    """

    def __init__(self, folder: Path, key: str, purge: int | None) -> None:
        module: Any = importlib.import_module(_MODULES["wandb"])
        place = {"dir": str(folder), "project": os.environ.get("WANDB_PROJECT", "picie"), "name": folder.resolve().name}
        self._run = module.init(
            **place, id=key, resume="allow", config=tomllib.loads((folder / "config.toml").read_text("utf-8"))
        )

    def write(self, line: Mapping[str, Any]) -> None:
        """Add the numbers of `line` as a point at its epoch."""
        self._run.log(dict(numbers(line)), step=line["epoch"])

    def close(self) -> None:
        """Write out what is held back."""
        self._run.finish()


_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
_LOGGERS: dict[str, Callable[[Path, str, int | None], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


def check(names: Iterable[str]) -> None:
    """Raises `InputError` if what a logger needs is not installed."""
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise InputError(f"run.loggers: {name} is not installed ({error}); pip install {name}, or leave it out") from error


def open_loggers(names: Iterable[str], folder: Path, keys: dict[str, str], past: Sequence[Mapping[str, Any]]) -> list[Logger]:
    """The loggers of a run at its next line; one that is new to the run first gets the lines that went before.

    Args:
        names: "tensorboard" or "wandb".
        folder: the run's folder.
        keys: an id for each logger that the run has had; new ones are added.
        past: the lines of metrics.jsonl.

    Raises:
        InputError: a logger that cannot be opened, e.g. for want of an account.
    """
    opened: list[Logger] = []
    to_come = past[-1]["epoch"] + 1 if past else 1
    for name in names:
        new = name not in keys
        key = keys.setdefault(name, uuid.uuid4().hex)
        try:
            logger = _LOGGERS[name](folder, key, None if new else to_come)
        except Exception as error:  # whatever another's package raises
            raise InputError(
                f"run.loggers: {name} cannot be opened ({error}); go on with --resume and run.loggers= (none)"
            ) from error
        for line in past if new else ():
            logger.write(line)
        opened.append(logger)
    return opened
