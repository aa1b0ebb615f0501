"""Tensors to a device and back."""

from __future__ import annotations

import pytest
import torch

from picie.runtime.device import AsyncCopy, to_device


def test_on_a_cpu_a_tensor_is_where_it_is() -> None:
    tensor = torch.arange(3.0)
    assert to_device(tensor, "cpu") is tensor
    assert AsyncCopy(tensor).read() is tensor


@pytest.mark.gpu
def test_a_gpu_brings_what_was_asked_for_before_later_work() -> None:
    tensor = to_device(torch.arange(5).pin_memory(), "cuda")
    fetched = AsyncCopy(tensor * 2)
    large = torch.rand(4096, 4096, device="cuda")
    for _ in range(50):
        large = large @ large
    assert fetched.read().tolist() == [0, 2, 4, 6, 8]
    assert not fetched.read().is_cuda
