"""From here to the device that computes."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. A CUDA device fetches it while both sides go on; elsewhere that would read memory already freed."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")
