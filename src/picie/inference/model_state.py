"""The network in a checkpoint, and checkpoints without the state of their training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from picie.config import Config, from_dict
from picie.errors import InputError
from picie.inference.segments import Segments
from picie.methods.base import Method, build_method
from picie.runtime import checkpoint, output_paths
from picie.runtime.device import Engine, pick_device
from picie.runtime.rng import preserved_global_state

_KEPT = ("picie", "images", "imported", "classifier", "epoch", "step", "finished", "matching", "naming", "summary")


def restore(state: dict[str, Any], device: str) -> tuple[Method, Config, Engine]:
    """Return the network of a loaded checkpoint, ready to predict.

    Raises `InputError` if its run has no clusters yet, or the weights do not fit.
    """
    if not (state["epoch"] or state["step"] or state["finished"]):
        raise InputError("the run was stopped before its first clusters; go on with picie train --resume RUN")
    config = from_dict(state["config"])
    with preserved_global_state():  # a new network draws its first weights
        method = build_method(config, pretrained=False)
    _load_weights(method, state)
    engine = Engine(pick_device(device), config.train.precision)
    method.prepare(engine.device, engine.bf16)
    method.eval()
    return method, config, engine


def _load_weights(method: Method, state: dict[str, Any]) -> None:
    """Load a checkpoint's weights.

    Raises `InputError` if they are not those of its configuration.
    """
    advice = "the checkpoint is damaged, restore a copy of it, or train again"
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"the weights do not fit the configuration ({reason:.200}): {advice}") from error
    dim = checkpoint.classifier_in_use(state)[0].shape[1]
    if dim != method.dim:
        raise InputError(f"the clusters have {dim} dimensions, and the features have {method.dim}: {advice}")


def without_training(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint holds beside the network, its configuration and its training."""
    return {key: state[key] for key in _KEPT if key in state}


def write(path: str | os.PathLike[str], kept: dict[str, Any], config: Config, method: Method, segments: Segments) -> Path:
    """Write a checkpoint without the state of its training to a new folder or a new .pt file.

    Args:
        path: the folder, or a file that ends in .pt.
        kept: what `without_training` returned.
        config: the configuration.
        method: the network.
        segments: the segments that it predicts.

    Raises:
        InputError: `path` exists already.
    """
    path = Path(path)
    if path.exists() and (path.suffix == ".pt" or not path.is_dir() or not output_paths.is_empty(path)):
        raise InputError(f"{path}: exists already; give a new folder or a new .pt file")
    naming = kept.get("naming")
    if naming is not None or segments.user_defined:
        naming = {"clusters": None, **(naming or {}), "segments": segments.state()}
    weights = {name: tensor.cpu() for name, tensor in method.state_dict().items()}
    file = path if path.suffix == ".pt" else path / checkpoint.FILE_NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(file, {**kept, "config": config.model_dump(mode="json"), "method": weights, "naming": naming})
    return path
