"""Faster gradients of depthwise convolutions in bfloat16 on a CPU, by fast kernels of oneDNN.

By itself oneDNN is fast only for 3x3 kernels at stride 1. It computes the weight gradient of
larger kernels with a dense convolution, in float32 too, and likewise the input gradient at stride
2. Here the weight gradient is assembled from 3x3 pieces and the input gradient is a forward
convolution. Forward and backward, ms per batch of 16 on 2 cores (channels, cells per side, kernel,
stride), with casts to float32 / with this module: (96, 80, 3, 2) 31 / 10, (240, 20, 5, 1) 10 / 4,
(672, 10, 5, 1) 8 / 3.

A training step of EfficientNet-Lite0 (160 px, batch 16, one thread of a busy machine, median CPU
time per image of 10 interleaved steps) takes 85.5 ms with autocast alone, 51.0 with grouped
convolutions in float32 and 47.3 with this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pad = tuple[int, int, int, int]
"""Cells added at the left, right, top and bottom."""


def speed_up_depthwise(network: nn.Module) -> None:
    """Speed up training of grouped convolutions of `network` under CPU autocast to bfloat16.

    Weight names are unchanged. Depthwise convolutions with square odd kernels are computed in
    bfloat16, other grouped convolutions in float32. Without gradients nothing changes.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            train = _in_pieces if _is_plain_depthwise(module) else _in_fp32
            module.forward = functools.partial(_forward, module, module.forward, train)  # type: ignore[method-assign]


def _forward(module: nn.Conv2d, plain: Callable[[Tensor], Tensor], train: Callable[..., Tensor], input: Tensor) -> Tensor:
    in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if not (in_bf16 and torch.is_grad_enabled() and input.dim() == 4):
        return plain(input)
    with torch.autocast("cpu", enabled=False):
        return train(module, plain, input)


def _in_fp32(module: nn.Conv2d, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return plain(x.float())


def _in_pieces(module: nn.Conv2d, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.to(torch.bfloat16)
    y: Tensor = _Depthwise.apply(x, module.weight, module.stride[0], _pad(module, (x.shape[2], x.shape[3])))
    return y if module.bias is None else y + module.bias.to(y.dtype)[:, None, None]


def _is_plain_depthwise(module: nn.Conv2d) -> bool:
    (height, width), stride = module.kernel_size, module.stride
    depthwise = module.groups == module.in_channels == module.out_channels
    square = height == width and stride[0] == stride[1] and module.dilation == (1, 1)
    padded = _pads_by_size(module) or (not isinstance(module.padding, str) and max(module.padding) < height)
    odd = height % 2 == 1 and height >= 3
    return is_plain(module) and depthwise and square and odd and padded and module.padding_mode == "zeros"


def is_plain(module: nn.Conv2d) -> bool:
    """Return whether the module convolves with its own weight, unmodified."""
    return (type(module).forward is nn.Conv2d.forward or _pads_by_size(module)) and "weight" in module._parameters


def _pads_by_size(module: nn.Conv2d) -> bool:
    """Return whether it is timm's convolution with minimal padding, as TensorFlow's."""
    return type(module) is Conv2dSame


def _pad(module: nn.Conv2d, size: tuple[int, int]) -> Pad:
    if not _pads_by_size(module):
        top, left = (int(p) for p in module.padding)
        return left, left, top, top
    kernel, stride = module.kernel_size[0], module.stride[0]
    tall, wide = (max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in size)
    return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2


class _Depthwise(Function):
    """y = weight * x, depthwise, in the dtype of x.

    The weight gradient has the dtype of the weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, pad: Pad) -> Tensor:
        """Convolve `x` (B, C, H, W) with `weight` (C, 1, k, k), of any dtype."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.pad = stride, pad
        left, right, top, bottom = pad
        symmetric = left == right and top == bottom  # the convolution can pad symmetrically
        padded = x if symmetric else F.pad(x, pad)
        return F.conv2d(padded, weight.to(x.dtype), None, stride, (top, left) if symmetric else 0, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, in its dtype and memory layout, and of the weight."""
        (x, weight), stride, pad = ctx.saved_tensors, ctx.stride, ctx.pad
        dx = _of_input(x, weight, dy, stride, pad) if ctx.needs_input_grad[0] else None
        dw = _of_weight(F.pad(x, pad), weight, dy, stride) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None


def _of_input(x: Tensor, weight: Tensor, dy: Tensor, stride: int, pad: Pad) -> Tensor:
    """Return the gradient of `x`.

    It is the convolution of `dy`, with zeros between its cells at stride 2, with the flipped
    kernel.
    """
    (height, width), (rows, columns), reach = x.shape[2:], dy.shape[2:], weight.shape[2] - 1
    top, left = reach - pad[2], reach - pad[0]
    spread = dy.new_zeros(len(dy), height + reach, width + reach, dy.shape[1])
    spread[:, top : top + stride * rows : stride, left : left + stride * columns : stride] = dy.permute(0, 2, 3, 1)
    turned = weight.flip(2, 3).to(dy.dtype)
    return F.conv2d(spread.permute(0, 3, 1, 2), turned, groups=len(weight))


def _of_weight(padded: Tensor, weight: Tensor, dy: Tensor, stride: int) -> Tensor:
    """Return the gradient of `weight`, from 3x3 pieces that agree where they overlap."""
    (height, width), dw = ((side - 1) * stride + 3 for side in dy.shape[2:]), torch.empty_like(weight)
    piece = torch.empty(len(weight), 1, 3, 3, dtype=dy.dtype)  # only its shape is used
    strides, none, wanted = [stride, stride], [0, 0], [False, True, False]
    for i in range(0, weight.shape[2] - 2, 2):
        for j in range(0, weight.shape[3] - 2, 2):
            part = padded[:, :, i : i + height, j : j + width].contiguous(memory_format=torch.channels_last)
            gradients = torch.ops.aten.convolution_backward(
                dy, part, piece, None, strides, none, [1, 1], False, none, len(weight), wanted
            )
            dw[:, :, i : i + 3, j : j + 3] = gradients[1]
    return dw
