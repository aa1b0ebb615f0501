"""Depthwise convolutions in bfloat16: their gradients against autograd's own, in float64 and to bfloat16's precision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F

from picie.models.depthwise import _Depthwise, speed_up_depthwise

KINDS: dict[str, Callable[[], nn.Conv2d]] = {
    "3x3": lambda: nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False),
    "3x3, stride 2, bias": lambda: nn.Conv2d(32, 32, 3, 2, 1, groups=32),
    "5x5, bias": lambda: nn.Conv2d(24, 24, 5, 1, 2, groups=24),
    "5x5, no padding": lambda: nn.Conv2d(24, 24, 5, groups=24),
    "7x7": lambda: nn.Conv2d(16, 16, 7, 1, 3, groups=16),
    "padded as TensorFlow, 3x3, stride 2": lambda: Conv2dSame(16, 16, 3, 2, groups=16, bias=False),
    "padded as TensorFlow, 5x5, stride 2": lambda: Conv2dSame(16, 16, 5, 2, groups=16, bias=False),
    "padded as TensorFlow, 5x5, stride 3": lambda: Conv2dSame(16, 16, 5, 3, groups=16, bias=False),
}
OTHERS: dict[str, Callable[[], nn.Conv2d]] = {
    "groups of four": lambda: nn.Conv2d(32, 32, 3, 1, 1, groups=8),
    "two outputs a channel": lambda: nn.Conv2d(16, 32, 3, 1, 1, groups=16),
    "dilated": lambda: nn.Conv2d(16, 16, 3, 1, 2, dilation=2, groups=16),
    "4x4": lambda: nn.Conv2d(16, 16, 4, groups=16),
    "3x5": lambda: nn.Conv2d(16, 16, (3, 5), groups=16),
    "1x1": lambda: nn.Conv2d(16, 16, 1, groups=16),
    "by name": lambda: nn.Conv2d(16, 16, 3, padding="same", groups=16),
    "padded by more than the kernel reaches": lambda: nn.Conv2d(16, 16, 3, padding=3, groups=16),
    "with a weight that is standardised": lambda: StdConv2d(16, 16, 3, padding=1, groups=16),
    "reflecting": lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect", groups=16),
}


def inputs(module: nn.Conv2d, size: tuple[int, int] = (18, 13)) -> Tensor:
    torch.manual_seed(1)
    x = torch.randn(3, module.in_channels, *size).bfloat16()
    return x.to(memory_format=torch.channels_last)


def trained(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The output, and the gradients of the input and of the parameters, as float64."""
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).bfloat16().to(y.dtype))
    assert x.grad is not None
    grads = [p.grad.double() for p in module.parameters() if p.grad is not None]
    return y.detach().double(), x.grad.double(), grads


@pytest.mark.parametrize("size", [(18, 13), (7, 8), (5, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_plain_convolution(kind: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    quick = KINDS[kind]()
    plain = copy.deepcopy(quick).double()
    x = inputs(quick, size)
    speed_up_depthwise(quick)
    with torch.autocast("cpu", torch.bfloat16):
        y, dx, grads = trained(quick, x)
        assert quick(x).dtype == torch.bfloat16
        grad_fn = quick(x).grad_fn
        assert "_Depthwise" in str(grad_fn if quick.bias is None else grad_fn.next_functions[0][0])  # not autograd's own
    expected_y, expected_dx, expected = trained(plain, x.double())
    for found, wanted in zip([y, dx, *grads], [expected_y, expected_dx, *expected], strict=True):
        assert found.shape == wanted.shape
        assert float((found - wanted).norm() / wanted.norm()) < 0.01  # bfloat16's unit is 0.004


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 1, (1, 1, 1, 1)), (5, 2, (1, 2, 1, 2)), (7, 1, (0, 3, 2, 1)), (3, 2, (0,) * 4)]
)
def test_gradients_by_finite_differences(kernel: int, stride: int, pad: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 8, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: _Depthwise.apply(x, w, stride, pad), (x, weight))
    y = _Depthwise.apply(x, weight, stride, pad)
    torch.testing.assert_close(y, F.conv2d(F.pad(x, pad), weight, stride=stride, groups=2))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_grouped_convolutions_train_in_float32(kind: str) -> None:
    torch.manual_seed(0)
    module = OTHERS[kind]()
    x = inputs(module)
    expected = trained(copy.deepcopy(module), x.float())
    speed_up_depthwise(module)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.float32
        found = trained(module, x)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    for own, wanted in zip(found[2], expected[2], strict=True):
        torch.testing.assert_close(own, wanted, atol=1e-3, rtol=1e-3)


def test_nothing_changes_without_gradients_without_autocast_and_in_names() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 5, groups=8))
    quick = copy.deepcopy(network)
    speed_up_depthwise(quick)
    assert quick.state_dict().keys() == network.state_dict().keys()
    x = torch.rand(2, 3, 12, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quick(x), network(x))
    assert quick(x).dtype == torch.float32
    assert torch.equal(quick(x), network(x))
    with torch.autocast("cpu", torch.float16):
        assert quick(x).dtype == torch.float16
    with torch.autocast("cpu", torch.bfloat16):  # one picture, by name
        assert torch.equal(quick[1](input=quick[0](x)[0]), network(x[:1])[0])


def test_a_frozen_input_or_weight_gets_no_gradient() -> None:
    module = nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False)
    speed_up_depthwise(module)
    x = inputs(module)
    with torch.autocast("cpu", torch.bfloat16):
        module(x).sum().backward()
        assert module.weight.grad is not None
        assert x.grad is None
        module.requires_grad_(False).zero_grad()
        x.requires_grad_()
        module(x).sum().backward()
    assert module.weight.grad is None
    assert x.grad is not None
