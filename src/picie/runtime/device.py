"""The device, its precision, and copies to and from it."""

from __future__ import annotations

import ctypes
import logging
import sys

import torch
from torch import Tensor

from picie.errors import InputError
from picie.runtime import distributed

log = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def pick_device(name: str) -> torch.device:
    """Return the device that `run.device` names; "auto" is cuda, otherwise mps, otherwise cpu.

    Each process of a run uses a GPU of its own.

    Raises:
        InputError: The device is unknown or not on this machine.
    """
    if distributed.world_size() > 1 and (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
        return _own_gpu(name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"run.device: unknown device {name!r}; give auto, cpu, cuda, cuda:N or mps") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False) or (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise InputError(f"run.device: {name!r} is not on this machine; give auto or cpu")
    return device


def _own_gpu(name: str) -> torch.device:
    if name.startswith("cuda:"):
        raise InputError(f"run.device: {name!r} is one GPU, and each of this run's processes needs its own; give cuda or cpu")
    if distributed.local_world_size() > torch.cuda.device_count():
        raise InputError(
            f"run.device: {distributed.local_world_size()} processes on this machine, "
            f"which has {torch.cuda.device_count()} GPUs; "
            "start one for each GPU, or set run.device=cpu"
        )
    device = torch.device("cuda", distributed.local_rank())
    torch.cuda.set_device(device)  # NCCL uses the current device
    return device


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _gpu_has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def keep_freed_memory() -> None:
    """Let glibc reuse freed tensor memory instead of requesting new pages from the kernel.

    By default glibc returns large blocks at once, and every step pays for page faults: on 2 cores,
    13.3 s for a training pass over CamVid instead of 10.4, and 8.1 s for clustering and labelling
    instead of 6.3. The process then keeps its peak memory, so only training runs enable this, not
    prediction from Python.
    """
    # musl has no mallopt.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the maximum that glibc accepts
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class Engine:
    """A device and the precision that is fastest on it.

    bf16 is faster on GPUs that support it, and on CPUs that support it (AMX, AVX512-BF16) except
    for the backward pass of depthwise and other grouped convolutions, see
    `picie.models.depthwise`. Measured on 2 cores with AVX512-BF16, in ms per image at 160 px and
    batch 16, forward and backward, fp32 / bf16, medians of 12 interleaved runs: ResNet-18 17.5 /
    11.1, EfficientNet-Lite0 17.9 / 22.5, and 14.4 with its depthwise convolutions in fp32; the
    current implementation takes a fifth off that (docs/research/log.md). Forward alone, fp32 /
    bf16: 5.0 / 3.1 and 2.9 / 2.0.

    Args:
        device: The device.
        precision: "auto", "fp32" or "bf16".
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device = device
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # a stopwatch synchronises with the current device
        has_bf16 = _cpu_has_bf16() if device.type == "cpu" else device.type == "cuda" and _gpu_has_bf16(device)
        self.bf16 = has_bf16 if precision == "auto" else precision == "bf16"
        if device.type == "cuda" and not self.bf16:
            # Otherwise "fp32" convolutions would have a 10-bit mantissa.
            torch.backends.cudnn.allow_tf32 = False

    def to_images(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Convert (B, 3, H, W) uint8 on the CPU to `dtype` in [0, 1] on the device."""
        return to_device(pixels, self.device).to(dtype).div_(255)

    @property
    def picture_dtype(self) -> torch.dtype:
        """The dtype in which views are cropped and recoloured: bfloat16 if the network uses it.

        Its 8-bit mantissa is as precise as the pixels, and the network's first convolution would
        round to it anyway. Cropping and recolouring both views of 16 images takes 17 ms instead of
        28 (2 cores, frames of 320, views of 160).
        """
        return torch.bfloat16 if self.bf16 else torch.float32

    def describe(self) -> dict[str, object]:
        """Describe the device and the precision for the run record."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {
            "device": name,
            "precision": "bf16" if self.bf16 else "fp32",
            "threads": torch.get_num_threads(),
            "processes": distributed.world_size(),
        }


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy `tensor` to `device`, asynchronously on CUDA.

    Elsewhere an asynchronous copy could read memory that was already freed.
    """
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


class AsyncCopy:
    """An asynchronous copy of a tensor to the CPU.

    On CUDA, the copy runs once the device has computed the tensor, while the caller continues. A
    later `tensor.cpu()` would instead wait for everything queued on the device until then.

    Args:
        tensor: A tensor of any shape on any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._copy = tensor
        if tensor.device.type == "cuda":
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.current_stream(tensor.device).record_event()

    def read(self) -> Tensor:
        """Wait for this copy, but not for work queued later, and return the tensor on the CPU."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy.cpu()
