"""Read a backbone's weights from a file of unknown layout.

Training programs store a state_dict under various keys and prefixes ("state_dict", "teacher",
"module.", "_orig_mod.", "backbone."). All are searched until every name of the backbone is found
under one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from picie.errors import InputError
from picie.runtime import checkpoint

log = logging.getLogger(__name__)

StateDict = Mapping[str, Tensor]
Convert = Callable[[StateDict], StateDict | None]
_USUAL_KEYS = ("state_dict", "model", "model_state")  # preferred if several state_dicts fit
_USUAL_PREFIXES = ("", "module_", "model_")
_MAX_DEPTH = 3  # of nested dictionaries
# A name that each of these layouts has: DINOv2 and DINOv3; their ConvNeXt.
_OFFICIAL_NAMES = ("cls_token", "downsample_layers.0.0.weight")


def read_state_dicts(path: Path) -> dict[str, StateDict]:
    """Read all state_dicts in a .pth or .safetensors file. No code in it is executed.

    Returns:
        The state_dicts by the dotted keys under which they are stored, "" for the file itself.

    Raises:
        InputError: the file does not exist, has another format, or holds no state_dict.
    """
    if not path.is_file():
        raise InputError(f"model.weights: {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"model.weights: {path}: is not a .safetensors file, or is damaged") from error
    else:
        content = checkpoint.read_tensors(path)
    found = dict(_state_dicts(content))
    if not found:
        raise InputError(f"model.weights: {path}: holds no state_dict (names and tensors)")
    return found


def _state_dicts(content: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield key, tensors
    for name, value in content.items():
        if isinstance(name, str):
            yield from _state_dicts(value, f"{key}.{name}" if key else name, depth + 1)


@dataclass(frozen=True)
class _Match:
    """A way to read the backbone's tensors from a file.

    Attributes:
        key: dotted keys of the state_dict.
        prefix: prefix of its names, "." written as "_".
        tensors: the tensors found, by the backbone's names.
        missing: names of the backbone that were not found.
        label: key and prefix as written in the file, e.g. "teacher.backbone".
    """

    key: str
    prefix: str
    tensors: Mapping[str, Tensor]
    missing: tuple[str, ...]
    label: str

    @property
    def usual(self) -> bool:
        return all(part in _USUAL_KEYS for part in self.key.split(".") if part) and self.prefix in _USUAL_PREFIXES


def load_weights(net: nn.Module, path: Path, key: str | None = None, convert: Convert | None = None) -> None:
    """Load the weights of `net` from a file.

    Other tensors in the file, such as a classifier's, are ignored.

    Args:
        net: the network; its own tensors are replaced.
        path: a .pth or .safetensors file.
        key: where the weights are, if several state_dicts in the file fit, e.g. "teacher".
        convert: brings a state_dict of the authors' layout to the names and shapes of `net`, or
            returns None. It is used if none fits as it is.

    Raises:
        InputError: the file cannot be read, no state_dict fits or several do, or a tensor has
            another shape or is not finite.
    """
    own = net.state_dict()
    states = read_state_dicts(path)
    matches = [match for name, state in states.items() for match in _matches(name, state, own)]
    complete = _under(key, [match for match in matches if not match.missing])
    if convert is not None and not any(_has_shapes(match.tensors, own) for match in complete):
        candidates = (match for name, state in states.items() for match in _official(name, state))
        converted = [(match, convert(match.tensors)) for match in _under(key, candidates)]
        complete = [replace(match, tensors=tensors) for match, tensors in converted if tensors is not None] or complete
    if not complete:
        raise InputError(f"model.weights: {path}: {_misfit(states, matches, own, key)}")
    match = _only(complete, path)
    _check_tensors(match.tensors, own, path)
    if not match.usual:
        log.info("%s: using the weights under %r", path, match.label)
    net.load_state_dict(dict(match.tensors), strict=False)


def _under(key: str | None, matches: Iterable[_Match]) -> list[_Match]:
    return [match for match in matches if key is None or f".{key}." in f".{match.label}."]


def _has_shapes(tensors: StateDict, own: StateDict) -> bool:
    return all(tensor.shape == own[name].shape for name, tensor in tensors.items())


def _official(key: str, state: StateDict) -> Iterator[_Match]:
    """Every part of a state_dict that may hold a whole model in the layout of its authors."""
    starts = {name.removesuffix(last) for name in state for last in _OFFICIAL_NAMES if name.endswith(last)}
    for prefix in sorted(starts or {""}):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        label = ".".join(part for part in (key, prefix.rstrip(".")) if part)
        yield _Match(key, prefix.replace(".", "_"), tensors, (), label)


def _matches(key: str, state: StateDict, own: StateDict) -> Iterator[_Match]:
    """Every prefix in a state_dict under which some of the backbone's names are found."""
    # timm's features_only renames children with "_" for "." in some architectures: "blocks.0" ->
    # "blocks_0".
    stored = {name.replace(".", "_"): name for name in state}
    wanted = {name.replace(".", "_").removeprefix("model_"): name for name in own}
    anchor = max((flat for flat, name in wanted.items() if not name.endswith("num_batches_tracked")), key=len)
    for flat, name in stored.items():
        start = len(flat) - len(anchor)
        if not flat.endswith(anchor) or (start and name[start - 1] != "."):
            continue
        prefix = flat[:start]
        found = {mine: stored.get(prefix + flat) for flat, mine in wanted.items()}
        missing = tuple(n for n, other in found.items() if other is None and not n.endswith("num_batches_tracked"))
        tensors = {mine: state[other] for mine, other in found.items() if other is not None}
        label = ".".join(part for part in (key, name[:start].rstrip(".")) if part)
        yield _Match(key, prefix, tensors, missing, label)


def _only(complete: list[_Match], path: Path) -> _Match:
    usual = [match for match in complete if match.usual]
    chosen = usual if len(usual) == 1 else complete
    if len(chosen) > 1:
        labels = sorted(match.label for match in chosen)
        listed = ", ".join(labels[:8])
        raise InputError(
            f"model.weights: {path}: {len(labels)} sets of weights fit: {listed}; choose one, "
            f"e.g. model.weights_key={labels[-1]}"
        )
    return chosen[0]


def _misfit(states: Mapping[str, StateDict], matches: list[_Match], own: StateDict, key: str | None) -> str:
    """Describe how the names in the file differ from those of the backbone."""
    if key is not None and any(not match.missing for match in matches):
        labels = ", ".join(sorted(match.label or "the file itself" for match in matches if not match.missing)[:8])
        return f"no weights that fit under model.weights_key = {key!r}; they are under: {labels}"
    problem = "its names are not those of the backbone"
    if matches:
        best = min(matches, key=lambda match: len(match.missing))
        where = f" under {best.label!r}" if best.label else ""
        problem = f"{len(best.missing)} of {len(own)} names of the backbone are missing{where}, e.g. {best.missing[0]}"
    largest = max(states.values(), key=len)
    if any(name.startswith("embeddings.") or ".embeddings." in name for name in largest):
        problem = f"it has the layout of the transformers library; use the authors' .pth file or that of timm's hub ({problem})"
    return f"{problem}; the backbone's names are {_first(own)}, the file's {_first(largest)}"


def _first(names: StateDict) -> str:
    shown = ", ".join(f"{name:.60}" for name in islice(names, 3))
    return f"{shown}, ..." if len(names) > 3 else shown


def _check_tensors(tensors: Mapping[str, Tensor], own: StateDict, path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"model.weights: {path}: {name} is {tuple(tensor.shape)}, in the backbone it is {tuple(own[name].shape)}; "
                "use weights of the same architecture and size"
            )
        if tensor.is_meta:
            raise InputError(f"model.weights: {path}: {name} has no values (a meta tensor); save the weights again")
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"model.weights: {path}: {name} is not a dense tensor of real numbers; save it as one")
        if not tensor.isfinite().all():
            raise InputError(f"model.weights: {path}: {name} holds values that are not finite (NaN or infinity)")
