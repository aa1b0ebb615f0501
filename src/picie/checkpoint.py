"""One file that holds all a run needs: to go on, to be scored, to predict.

Files are written beside their place and moved there, so that a reader sees the old one or the new one whole. They hold tensors
and plain values alone and load with `weights_only=True`: opening somebody's checkpoint runs nothing.
"""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from picie.errors import InputError

FILE_NAME = "checkpoint.pt"
_FORMAT = "picie"
_VERSION = 1


def find_checkpoint(run: str | Path) -> Path:
    """The checkpoint of `run`, a run's folder or the file itself. Raises `InputError` where there is none."""
    path = Path(run)
    if not path.exists():
        raise InputError(f"{run}: no such run; give a folder that `picie train` made")
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{run}: holds no {FILE_NAME}; give a folder that `picie train` made")
    return file


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, of tensors and plain values, to `path` in one step."""
    with_format = {"format": _FORMAT, "version": _VERSION, **state}
    write_atomically(path, lambda file: torch.save(with_format, file))


def load(run: str | Path) -> dict[str, Any]:
    """The state that `save` wrote, its tensors on the CPU.

    Raises:
        InputError: no checkpoint, a broken one, one of something else, or one of a newer picie.
    """
    path = find_checkpoint(run)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on pickles of another protocol; the error below says it all
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is not a checkpoint of picie, or is damaged; give a run's folder") from error
    if not (isinstance(state, dict) and state.get("format") == _FORMAT):
        raise InputError(f"{path}: is a checkpoint of something else; give a folder that `picie train` made")
    if state["version"] > _VERSION:
        raise InputError(f"{path}: was written by a newer picie ({state.get('picie')}); upgrade picie to read it")
    return state


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(file)` on a binary file beside `path`, force it to disk, and move it to `path`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
