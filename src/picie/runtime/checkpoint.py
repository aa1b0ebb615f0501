"""One file that holds all a run needs: to go on, to be scored, to predict.

Files are written beside their place and moved there, so that a reader sees the old one or the new one whole. They hold tensors
and plain values alone and load with `weights_only=True`: opening somebody's checkpoint runs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from picie.errors import InputError
from picie.runtime import checkpoint_schema
from picie.runtime.atomic_write import clear_partials, write_atomically

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
    state = read_tensors(path)
    if not (isinstance(state, dict) and state.get("format") == _FORMAT):
        raise InputError(f"{path}: is a checkpoint of something else; give a folder that `picie train` made")
    version = state.get("version", 0)
    if isinstance(version, int) and version > _VERSION:
        raise InputError(f"{path}: was written by a newer picie ({state.get('picie')}); upgrade picie to read it")
    problem = checkpoint_schema.fault(state)
    if problem is not None:
        raise InputError(f"{path}: the checkpoint is damaged: {problem}; restore a copy of it, or train again")
    _check_finite(path, state)
    return state


def _check_finite(path: Path, state: dict[str, Any]) -> None:
    """Raise `InputError` if the network or the clusters hold NaN or infinity."""
    clusters = (state.get("naming") or {}).get("clusters") or {}
    for part in (state.get("method"), state.get("classifier"), clusters):
        for name, tensor in part.items() if isinstance(part, dict) else ():
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(
                    f"{path}: the run's weights are not finite ({name} holds NaN or infinity), so it cannot segment images; "
                    "train it again, with a lower train.lr"
                )


def read_tensors(path: Path, also: Sequence[type] = ()) -> Any:
    """What a file of torch holds, on the CPU, if that is tensors and plain values; nothing in it is run.

    Args:
        path: the file.
        also: classes whose instances it may hold; they must do nothing when they are made and given attributes.

    Raises:
        InputError: another format, a damaged file, or one that holds more than that.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(also)):
            warnings.simplefilter("ignore")  # torch remarks on pickles of another protocol; the error below says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no pickle can end in any error at all
        raise InputError(
            f"{path}: is not a file of torch, is damaged, or holds more than tensors and plain values (nothing was run); "
            "compare its size with the source's, or fetch it again"
        ) from error


def classifier_in_use(state: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(K, D) weights and (K,) offsets of the clusters that a checkpoint predicts: those of its naming, else the trained."""
    naming = state.get("naming")
    clusters = naming["clusters"] if naming is not None else None
    chosen = state["classifier"] if clusters is None else clusters
    return chosen["weight"], chosen["bias"]


def centroids_in_use(state: Mapping[str, Any]) -> Tensor:
    """(K, D) centroids of the clusters that a checkpoint predicts."""
    naming = state.get("naming")
    if naming is not None and naming["clusters"] is not None:
        centroids: Tensor = naming["clusters"]["centroids"]
        return centroids.clone()
    weight: Tensor = state["classifier"]["weight"]
    prototypes: Tensor = state["method"].get("prototypes", weight)  # of the same clusters, where the classifier is trained
    return (prototypes if prototypes.shape == weight.shape else weight).clone()


def without_naming(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's `state` as before any `picie name`: with the trained clusters and the matching that they had."""
    naming = state.get("naming")
    if naming is None:
        return state
    rest = {key: value for key, value in state.items() if key != "naming"}
    return rest if naming["clusters"] is None else {**rest, "matching": naming["matching"]}


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Hold a run's folder against other processes of picie; yields whether that worked. It ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        if alone and os.access(folder, os.W_OK):
            clear_partials(folder)
        yield alone
    finally:
        os.close(handle)
