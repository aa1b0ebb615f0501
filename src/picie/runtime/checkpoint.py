"""The checkpoint: one file with all that is needed to resume, evaluate and predict.

Files are written to a temporary name and then renamed, so a reader sees either the old or the new
file. They contain only tensors and plain values and are loaded with `weights_only=True`, so
opening a checkpoint runs no code.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from picie.runtime.system_calls import locked_folder

FILE_NAME = "checkpoint.pt"
_FORMAT = "picie"
_VERSION = 1


def find_checkpoint(run: str | os.PathLike[str]) -> Path:
    """Find the checkpoint of `run`, a run folder or the file itself.

    Raises `InputError` if there is none.
    """
    path = Path(run)
    if not path.exists():
        raise InputError(f"{run}: no such run; give a folder that `picie train` made")
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{run}: holds no {FILE_NAME}; give a folder that `picie train` made")
    return file


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, which holds tensors and plain values, to `path` atomically."""
    with_format = {"format": _FORMAT, "version": _VERSION, **state}
    write_atomically(path, lambda file: torch.save(with_format, file))


def load(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Load the state that `save` wrote, with its tensors on the CPU.

    Raises:
        InputError: There is no checkpoint, it is damaged, it is not of picie, or a newer version
            wrote it.
    """
    path = find_checkpoint(run)
    state = read_tensors(path)
    if not (isinstance(state, dict) and state.get("format") == _FORMAT):
        raise InputError(f"{path}: is not a checkpoint of picie; give a folder that `picie train` made")
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
    """Load a PyTorch file of tensors and plain values to the CPU; no code in it is run.

    Args:
        path: The file.
        also: Additional classes whose instances it may hold; creating them and setting their
            attributes must be harmless.

    Raises:
        InputError: The format is another one, the file is damaged, or it holds other objects.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(also)):
            # torch warns of other pickle protocols; the error below is enough.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is not a pickle can raise any error
        raise InputError(
            f"{path}: is not a PyTorch file, is damaged, or holds more than tensors and plain values (nothing was run); "
            "compare its size with the source's, or fetch it again"
        ) from error


def classifier_in_use(state: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return (K, D) weights and (K,) biases of the clusters that a checkpoint predicts.

    These are the clusters of its naming if it has one, otherwise the trained clusters.
    """
    naming = state.get("naming")
    clusters = naming["clusters"] if naming is not None else None
    chosen = state["classifier"] if clusters is None else clusters
    return chosen["weight"], chosen["bias"]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return a fingerprint of named tensors, such as the weights of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def classifier_fingerprint(classifier: tuple[Tensor, Tensor]) -> str:
    """Return a fingerprint of (K, D) weights and (K,) offsets, which give each cell its cluster."""
    return fingerprint(dict(zip(("weight", "bias"), classifier, strict=True)))


def centroids_in_use(state: Mapping[str, Any]) -> Tensor:
    """Return the (K, D) centroids of the clusters that a checkpoint predicts."""
    naming = state.get("naming")
    if naming is not None and naming["clusters"] is not None:
        centroids: Tensor = naming["clusters"]["centroids"]
        return centroids.clone()
    weight: Tensor = state["classifier"]["weight"]
    prototypes: Tensor = state["method"].get("prototypes", weight)  # if the classifier is trained
    return (prototypes if prototypes.shape == weight.shape else weight).clone()


@contextlib.contextmanager
def changing(run: str | Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a run's checkpoint file and its state, while other processes cannot change the run.

    Raises:
        InputError: the run does not exist, is damaged, or another process is using it.
    """
    path = find_checkpoint(run)
    with exclusive(path.parent) as locked:
        if not locked:
            raise InputError(f"{run}: another picie process is using this run; wait until it has finished")
        yield path, load(path)


def taught_clicks(state: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the number of clicks of each class that a run was taught by `picie teach`, or None."""
    naming = state.get("naming")
    clicks: dict[str, int] | None = None if naming is None else naming.get("taught")
    return clicks


def without_naming(state: dict[str, Any]) -> dict[str, Any]:
    """Return `state` as before any `picie name`: the trained clusters and their matching."""
    naming = state.get("naming")
    if naming is None:
        return state
    rest = {key: value for key, value in state.items() if key != "naming"}
    return rest if naming["clusters"] is None else {**rest, "matching": naming["matching"]}


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Lock a run folder against other picie processes and yield whether that succeeded.

    The lock ends with the process.
    """
    with locked_folder(folder) as locked:
        if locked and os.access(folder, os.W_OK):
            clear_partials(folder)
        yield locked
