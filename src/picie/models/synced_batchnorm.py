"""BatchNorm over the whole batch when it is split over several processes.

torch's SyncBatchNorm runs only on GPUs. Here the layers keep their class, names and weights; only
their computation of the batch mean and variance in training changes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from picie.runtime import distributed


def synchronise(network: nn.Module) -> None:
    """Make every BatchNorm of `network`, including timm's, use statistics over all processes."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.forward = functools.partial(_forward, module, module.forward)  # type: ignore[method-assign]


@contextlib.contextmanager
def uncounted(network: nn.Module) -> Iterator[None]:
    """Exclude this process's input of `network` from statistics and gradients within the block.

    A process without images passes a placeholder so that it takes part in the exchanges.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for layer in layers:
        layer.uncounted = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.uncounted


def _forward(layer: _BatchNorm, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # Processes may evaluate different numbers of batches, so nothing is exchanged.
    if not layer.training:
        return plain(x)
    counted = not hasattr(layer, "uncounted")
    y, mean, variance, n = _Normalise.apply(x, layer.weight, layer.bias, layer.eps, counted)
    if layer.running_mean is not None:
        _track(layer, mean, variance * n / (n - 1).clamp(min=1))
    for name in ("drop", "act"):  # of timm's BatchNormAct2d
        y = getattr(layer, name, nn.Identity())(y)
    out: Tensor = y
    return out


@torch.no_grad()
def _track(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics towards `mean` and the unbiased `variance`, both (C,)."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean), share)
    layer.running_var.lerp_(variance.to(layer.running_var), share)


class _Normalise(Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, by statistics over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, counted: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalise `x`.

        Returns:
            y like x, mean (C,), biased variance (C,), and n, the number of values behind each.
        """
        mean, variance, n = _statistics(x, counted)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), n)
        ctx.counted = counted
        ctx.mark_non_differentiable(mean, variance, n)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias.

        Those of weight and bias are this process's share of a sum.
        """
        x, weight, mean, scale, n = ctx.saved_tensors
        over = _but_channels(x)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        local = torch.stack([(dy.float() * normal).sum(over), dy.float().sum(over)]) * ctx.counted
        along, level = (distributed.all_reduce_sum(local) / n).unbind()
        slope = scale if weight is None else scale * weight.float()
        dx = (dy.float() - level.view(shape) - normal * along.view(shape)) * slope.view(shape) * ctx.counted
        affine = (None, None) if weight is None else (local[0].to(weight), local[1].to(weight))
        return dx.to(x), *affine, None, None


def _but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _statistics(x: Tensor, counted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (C,) mean and biased variance over all processes, and the number of values; float32.

    They are combined from each process's mean and variance (Chan, Golub, LeVeque 1979). The mean
    of squares minus the square of the mean would lose the variance of channels whose mean is far
    from 0.
    """
    variance, mean = torch.var_mean(x.float(), _but_channels(x), correction=0)
    # Built on the device to avoid a synchronising copy.
    n = torch.full_like(mean, x.numel() // x.shape[1] if counted else 0)
    means, variances, counts = distributed.all_gather(torch.stack([mean, variance, n])).unbind(1)
    share = counts / counts.sum(0)
    common = (share * means).sum(0)
    spread = (share * (variances + (means - common).square())).sum(0)
    return common, spread, counts.sum(0)[0]
