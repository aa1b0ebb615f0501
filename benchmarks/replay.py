"""The floor: repeat the network calls of an epoch of picie on ready tensors, and nothing else.

Hooks record the calls while an epoch runs, so the floor changes when picie makes fewer of them. The
network is called unfolded, even if picie folds BatchNorm into convolutions.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from picie.models.extractor import Extractor


@dataclass(frozen=True)
class Call:
    """One call of the network or a part of it.

    Attributes:
        part: "network" is the backbone followed by the FPN; "backbone" and "fpn" are calls of one
            part.
        shapes: (B, C, H, W) of the images, or of each level for a call of the FPN alone.
        dtypes: of the same tensors.
        training: whether the network was in training mode.
        grad: whether gradients were enabled, so that a backward pass followed.
    """

    part: Literal["network", "backbone", "fpn"]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    training: bool
    grad: bool

    @property
    def images(self) -> int:
        """Number of images."""
        return self.shapes[0][0]


@dataclass(frozen=True)
class Ready:
    """Inputs for the calls, on the device and in the network's memory layout.

    Attributes:
        inputs: random tensors for each kind of call.
        gradients: of the outputs of calls with a backward pass; created at their first replay.
    """

    inputs: dict[Call, list[Tensor]]
    gradients: dict[Call, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def recorded(network: Extractor) -> Iterator[list[Call]]:
    """Record every call of `network` or its parts inside the block in the yielded list."""
    calls: list[Call] = []
    # finest level of the last backbone call; a weak reference
    latest: list[weakref.ref[Tensor]] = []

    def on_backbone(module: nn.Module, inputs: tuple[Tensor], levels: Sequence[Tensor]) -> None:
        calls.append(_call("backbone", inputs, module.training))
        latest[:] = [weakref.ref(levels[0])]

    def on_fpn(module: nn.Module, inputs: tuple[Sequence[Tensor]]) -> None:
        (levels,) = inputs
        if calls and calls[-1].part == "backbone" and latest[0]() is levels[0]:
            images = calls.pop()
            calls.append(Call("network", images.shapes, images.dtypes, module.training, torch.is_grad_enabled()))
        else:
            calls.append(_call("fpn", levels, module.training))

    hooks = [network.backbone.register_forward_hook(on_backbone), network.fpn.register_forward_pre_hook(on_fpn)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _call(part: Literal["backbone", "fpn"], inputs: Sequence[Tensor], training: bool) -> Call:
    shapes, dtypes = tuple(tuple(x.shape) for x in inputs), tuple(x.dtype for x in inputs)
    return Call(part, shapes, dtypes, training, torch.is_grad_enabled())


def counts(calls: Sequence[Call]) -> dict[str, int]:
    """Number of images passed forwards and backwards through the network, and through the FPN
    alone.
    """
    through = [call for call in calls if call.part != "fpn"]
    return {
        "forwards": sum(call.images for call in through),
        "backwards": sum(call.images for call in calls if call.grad),
        "fpn_alone": sum(call.images for call in calls if call.part == "fpn"),
    }


def ready(calls: Sequence[Call], device: torch.device) -> Ready:
    """Random inputs for each distinct call, on `device`."""
    kinds = dict.fromkeys(calls)
    return Ready({call: [_random(s, d, device) for s, d in zip(call.shapes, call.dtypes, strict=True)] for call in kinds})


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.rand(shape, device=device).to(dtype=dtype, memory_format=torch.channels_last)


def replay(network: Extractor, calls: Sequence[Call], given: Ready) -> None:
    """Repeat the `calls` of `network` on the inputs of `ready`, without a loss.

    Calls that had a backward pass have one here, too.
    """
    for call in calls:
        if network.training != call.training:
            network.train(call.training)
        with torch.set_grad_enabled(call.grad):
            out = _make(network, call, given.inputs[call])
        if call.grad:
            if call not in given.gradients:
                given.gradients[call] = torch.rand_like(out)
            out.backward(given.gradients[call])
            network.zero_grad(set_to_none=True)


def _make(network: Extractor, call: Call, inputs: list[Tensor]) -> Tensor:
    levels = inputs if call.part == "fpn" else network.levels(inputs[0])
    return levels[0] if call.part == "backbone" else network.decode(levels)


@contextlib.contextmanager
def as_it_was(network: Extractor) -> Iterator[None]:
    """Restore the mode, weights and running statistics of `network` after the block."""
    training = network.training
    state: dict[str, Any] = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        yield
    finally:
        network.load_state_dict(state)
        network.train(training)
