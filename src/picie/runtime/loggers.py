"""Sends the metrics of each epoch to TensorBoard and Weights & Biases (`run.loggers`)."""

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
    """A destination for lines of metrics.jsonl."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Log the numbers of `line` at its epoch."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


def numbers(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line with their names.

    List items are numbered from 1; keys of sections become "section/key".

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
        folder: The run folder.
        key: Unused.
        purge: The first epoch of a resumed run; existing entries from this epoch on are dropped.
    """

    def __init__(self, folder: Path, key: str, purge: int | None) -> None:
        module: Any = importlib.import_module(_MODULES["tensorboard"])
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, line: Mapping[str, Any]) -> None:
        """Log the numbers of `line` at its epoch."""
        for name, value in numbers(line):
            self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, continued when the run is resumed.

    Its environment variables apply (WANDB_MODE=offline).

    Args:
        folder: The run folder.
        key: The run's id there.
        purge: Unused: a second point at an existing step is ignored.
    """

    def __init__(self, folder: Path, key: str, purge: int | None) -> None:
        module: Any = importlib.import_module(_MODULES["wandb"])
        place = {"dir": str(folder), "project": os.environ.get("WANDB_PROJECT", "picie"), "name": folder.resolve().name}
        self._run = module.init(
            **place, id=key, resume="allow", config=tomllib.loads((folder / "config.toml").read_text("utf-8"))
        )

    def write(self, line: Mapping[str, Any]) -> None:
        """Log the numbers of `line` at its epoch."""
        self._run.log(dict(numbers(line)), step=line["epoch"])

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()


_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
_LOGGERS: dict[str, Callable[[Path, str, int | None], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


def check(names: Iterable[str]) -> None:
    """Raise `InputError` if a package that a logger needs is not installed."""
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise InputError(f"run.loggers: {name} is not installed ({error}); pip install {name}, or leave it out") from error


def open_loggers(names: Iterable[str], folder: Path, keys: dict[str, str], past: Sequence[Mapping[str, Any]]) -> list[Logger]:
    """Open the loggers of a run before its next line.

    A logger new to the run first receives the earlier lines.

    Args:
        names: "tensorboard" or "wandb".
        folder: The run folder.
        keys: An id for each logger that the run has used; new ones are added.
        past: The lines of metrics.jsonl.

    Raises:
        InputError: A logger cannot be opened, e.g. because an account is missing.
    """
    opened: list[Logger] = []
    next_epoch = past[-1]["epoch"] + 1 if past else 1
    for name in names:
        new = name not in keys
        key = keys.setdefault(name, uuid.uuid4().hex)
        try:
            logger = _LOGGERS[name](folder, key, None if new else next_epoch)
        except Exception as error:  # the package may raise anything
            raise InputError(
                f"run.loggers: {name} cannot be opened ({error}); continue with --resume and run.loggers= (none)"
            ) from error
        for line in past if new else ():
            logger.write(line)
        opened.append(logger)
    return opened
