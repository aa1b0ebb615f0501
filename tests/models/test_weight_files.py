"""Weights that are not plain tensors are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from picie.errors import InputError
from picie.models.weight_files import load_weights


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x: x.to("meta"), "weight has no values"),
        (lambda x: x.to_sparse(), "weight is not a dense tensor of real numbers"),
        (lambda x: x.cfloat(), "weight is not a dense tensor of real numbers"),
        (lambda x: x * float("nan"), "weight holds values that are not finite"),
    ],
)
def test_tensors_without_plain_finite_values_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], problem: str
) -> None:
    net, file = nn.Linear(3, 2), tmp_path / "weights.pth"
    state = dict(net.state_dict())
    torch.save(state | {"weight": change(state["weight"])}, file)
    with pytest.raises(InputError, match=problem):
        load_weights(net, file)
