"""From here to the device that computes, and back."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. A CUDA device fetches it while both sides go on; elsewhere that would read memory already freed."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


class Fetched:
    """A tensor on its way here.

    A CUDA device brings it when it has come that far, and meanwhile this side goes on; `tensor.cpu()`, asked for later, would
    wait for all that the device has been given until then.

    Args:
        tensor: on any device, of any shape.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._held = tensor
        if tensor.device.type == "cuda":
            self._held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._held.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.current_stream(tensor.device).record_event()

    def read(self) -> Tensor:
        """It, on the CPU; waits for it, and for nothing that the device was given later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._held.cpu()
