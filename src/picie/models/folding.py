"""Folds BatchNorm into the preceding convolution for passes without gradients of the backbone.

With running statistics BatchNorm is one factor and one offset per channel, which the weights of
the convolution can absorb. This saves reading and writing the activations once per layer, and
weights are cast to the precision of the pass once instead of for each batch. Forward of 16 images
of 160 px, bfloat16 on 2 cores: EfficientNet-Lite0 58 -> 45 ms, ResNet-18 83 -> 77. Rounding
differs: features are as close to those in float32 as before, but not identical.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from picie.models.depthwise import is_plain

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@torch.no_grad()
def foldable(backbone: nn.Module, images: Tensor) -> list[Pair]:
    """Find the convolutions of `backbone`, in evaluation mode, that only a BatchNorm follows.

    They are found by tracing `images` (B, 3, H, W): each layer is called once, and of all
    functions that return tensors only the BatchNorm receives the convolution's output.
    """
    # The keys are ids; holding the tensor keeps its id from being reused.
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[Pair, Tensor]] = []
    called: Counter[nn.Module] = Counter()
    uses = _Uses()

    def on_convolution(module: nn.Conv2d, _: object, output: Tensor) -> None:
        called[module] += 1
        outputs[id(output)] = (module, output)
        uses.of[id(output)] = 0  # a tensor that had this id before no longer exists

    def on_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        called[module] += 1
        if id(inputs[0]) in outputs:
            pairs.append(((outputs[id(inputs[0])][0], module), inputs[0]))

    hooks = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and is_plain(module):
            hooks.append(module.register_forward_hook(on_convolution))
        elif type(module) in {nn.BatchNorm2d, BatchNormAct2d} and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(on_norm))
    try:
        with uses:
            levels = backbone.forward(images)  # not by calling it, which would run its hooks
    finally:
        for hook in hooks:
            hook.remove()
    uses.of.update(map(id, levels))
    return [pair for pair, output in pairs if uses.of[id(output)] == 1 and all(called[module] == 1 for module in pair)]


class _Uses(TorchFunctionMode):
    """Counts, by id of a tensor, the functions that compute a tensor from it or modify it."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Ignore functions that return no tensor, e.g. reading the shape.
        if any(isinstance(output, Tensor) for output in tree_leaves(result)):
            self.of.update({id(argument) for argument in tree_leaves((args, kwargs)) if isinstance(argument, Tensor)})
        return result


@contextlib.contextmanager
def folded(pairs: Sequence[Pair], dtype: torch.dtype) -> Iterator[None]:
    """Replace each of `pairs` by one convolution with weights of `dtype` within the block.

    The layers must not be trained, saved, loaded or folded again there.
    """
    before = [(conv.weight, conv.bias, vars(norm).get("forward")) for conv, norm in pairs]
    try:
        for conv, norm in pairs:
            weight, bias = _fold(conv, norm)
            conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
            conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
            rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
            norm.forward = rest.forward  # type: ignore[method-assign]
        yield
    finally:
        for (conv, norm), (old_weight, old_bias, forward) in zip(pairs, before, strict=True):
            conv.weight, conv.bias = old_weight, old_bias
            vars(norm).pop("forward", None)
            if forward is not None:
                vars(norm)["forward"] = forward


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that equals `conv` followed by `norm`.

    torch.nn.utils.fusion multiplies the bias by both factors in turn, which rounds differently;
    with it, runs would not stay bit-identical.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        factor = factor * norm.weight
    offset = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = offset * factor if not norm.affine else offset * factor + norm.bias
    return conv.weight * factor[:, None, None, None], bias
