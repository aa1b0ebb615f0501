"""BatchNorm folded into the convolution before it, for passes that look at features and take no gradients.

What normalises by running statistics is then one factor and one offset a channel, which the convolution's weights can hold: an
image's activations are read and written once less a layer, and weights are brought to the precision of the pass once and not at
each batch. Forwards of 16 images of 160 px, bfloat16 on 2 cores: EfficientNet-Lite0 58 -> 45 ms, ResNet-18 83 -> 77.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from picie.models.depthwise import is_plain

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]
_ALIKE = 1e-3  # of the largest value: what rounding may do to float32 in a hundred layers, and nothing else may


@torch.no_grad()
def foldable(backbone: nn.Module, images: Tensor) -> list[Pair]:
    """The convolutions of `backbone`, in evaluation mode, whose output goes to a BatchNorm and nowhere else.

    They are found by watching `images` (B, 3, H, W) float32 go through. That a convolution's output is used once cannot be
    watched, but shows in the levels that come out: where folding changes them, nothing is to be folded.
    """
    pairs = _neighbours(backbone, images)
    plain = backbone(images)
    with folded(pairs, images.dtype):
        found = backbone(images)
    alike = (torch.allclose(f, p, _ALIKE, _ALIKE * float(p.abs().max())) for f, p in zip(found, plain, strict=True))
    return pairs if all(alike) else []


def _neighbours(backbone: nn.Module, images: Tensor) -> list[Pair]:
    """Convolutions and BatchNorms of which the one's output is the other's input, each called once."""
    outputs: list[tuple[nn.Conv2d, Tensor]] = []  # kept, so that no two are the same memory
    called: list[nn.Module] = []
    pairs: list[Pair] = []

    def on_convolution(module: nn.Conv2d, _: object, output: Tensor) -> None:
        called.append(module)
        outputs.append((module, output))

    def on_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        called.append(module)
        pairs.extend((convolution, module) for convolution, output in outputs if output is inputs[0])

    hooks = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and is_plain(module):
            hooks.append(module.register_forward_hook(on_convolution))
        elif type(module) in {nn.BatchNorm2d, BatchNormAct2d} and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(on_norm))
    try:
        backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if all(called.count(module) == 1 for module in pair)]


@contextlib.contextmanager
def folded(pairs: Sequence[Pair], dtype: torch.dtype) -> Iterator[None]:
    """Inside, each of `pairs` is one convolution with weights of `dtype`; nothing may train, save or load the network there."""
    before = [(conv.weight, conv.bias, vars(norm).get("forward")) for conv, norm in pairs]
    try:
        for conv, norm in pairs:
            weight, bias = _fold(conv, norm)
            conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
            conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
            left = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
            vars(norm)["forward"] = left.forward  # not as an attribute, which would make it a part of the network
        yield
    finally:
        for (conv, norm), (own_weight, own_bias, forward) in zip(pairs, before, strict=True):
            conv.weight, conv.bias = own_weight, own_bias
            vars(norm).pop("forward", None)
            if forward is not None:
                vars(norm)["forward"] = forward


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that does what `conv` and then `norm` do, by the running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        factor = factor * norm.weight
    offset = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = offset * factor if not norm.affine else offset * factor + norm.bias
    return conv.weight * factor[:, None, None, None], bias
