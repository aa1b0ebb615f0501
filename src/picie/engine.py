"""Device, precision and stopping: everything about the machine that a run must know."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import torch
from torch import Tensor

from picie import processes
from picie.errors import InputError, Stopped
from picie.models.depthwise import speed_up_depthwise
from picie.models.extractor import Extractor
from picie.transfer import sent

log = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def pick_device(name: str) -> torch.device:
    """The device that `run.device` names; "auto" is cuda, else mps, else cpu.

    Each process of a run takes a GPU of its own.

    Raises:
        InputError: an unknown device or one that is not here.
    """
    if processes.count() > 1 and (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
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
    if processes.local_count() > torch.cuda.device_count():
        raise InputError(
            f"run.device: {processes.local_count()} processes on this machine, which has {torch.cuda.device_count()} GPUs; "
            "start one for each GPU, or set run.device=cpu"
        )
    device = torch.device("cuda", processes.local_rank())
    torch.cuda.set_device(device)  # which NCCL goes by
    return device


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _gpu_has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def keep_freed_memory() -> None:
    """Let glibc hand out again what tensors gave back, instead of asking the kernel for zeroed pages each time.

    By default it returns large blocks at once, and every step pays for faulting them in anew: on 2 cores, 13.3 s a training
    pass over CamVid instead of 10.4, and 8.1 s of clustering and labelling instead of 6.3. The process then keeps what it
    once needed, so only runs ask for it, not whoever predicts from Python.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class Engine:
    """A device and the precision that pays on it.

    bf16 pays on GPUs that have it, and on CPUs that have it (AMX, AVX512-BF16) but for the backward of depthwise and other
    grouped convolutions, see `picie.models.depthwise`. Measured on 2 cores with AVX512-BF16, ms an image at 160 px and batch
    16, forward and backward, fp32 / bf16, medians of 12 taken in turn: ResNet-18 17.5 / 11.1, EfficientNet-Lite0 17.9 / 22.5,
    and 14.4 with its depthwise convolutions in fp32; as they are now they take a fifth off that (docs/log.md). Forward alone,
    fp32 / bf16: 5.0 / 3.1 and 2.9 / 2.0.

    Args:
        device: where to compute.
        precision: "auto", "fp32" or "bf16".
        network: moved to the device, and prepared for its precision.
    """

    def __init__(self, device: torch.device, precision: str, network: Extractor) -> None:
        self.device = device
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # which a stopwatch waits for
        has_bf16 = _cpu_has_bf16() if device.type == "cpu" else device.type == "cuda" and _gpu_has_bf16(device)
        self.bf16 = has_bf16 if precision == "auto" else precision == "bf16"
        if device.type == "cuda" and not self.bf16:
            torch.backends.cudnn.allow_tf32 = False  # else convolutions in "fp32" would have 10 bits
        network.autocast_to = torch.bfloat16 if self.bf16 else None
        if self.bf16 and device.type == "cpu":
            speed_up_depthwise(network)
        network.to(device).to(memory_format=torch.channels_last)

    def to_images(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, 3, H, W) uint8 on the CPU -> `dtype` in [0, 1] on the device."""
        return sent(pixels, self.device).to(dtype).div_(255)

    @property
    def picture_dtype(self) -> torch.dtype:
        """What views are cut and coloured in: bfloat16 where the network computes with it.

        Its 8 bits of mantissa are those of the pixels, and the network's first convolution would round to them anyway. Cutting
        and colouring both views of 16 images takes 17 ms instead of 28 (2 cores, frames of 320, views of 160).
        """
        return torch.bfloat16 if self.bf16 else torch.float32

    def describe(self) -> dict[str, object]:
        """Device and precisions, for the run's record."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {
            "device": name,
            "precision": "bf16" if self.bf16 else "fp32",
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
        }


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


class StopRequest:
    """Set by SIGINT or SIGTERM while `graceful_stop` is active."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def is_asked(self) -> bool:
        """Whether a signal has arrived, here or in another process of the run; all must ask, and all get one answer."""
        asked = processes.most(self.signum or 0)
        if asked and self.signum is None:  # not else: a signal of this process's own may have come while it waited
            self.signum = asked
        return asked > 0

    def check(self, message: str = "stopped; nothing was lost") -> None:
        """Raise `Stopped` if a signal has arrived."""
        if self.signum is not None:
            raise Stopped(self.signum, message)


@contextlib.contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one acts as it would have without this.

    Signals can be caught in the main thread alone; in any other this does nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def note(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        restore()
        log.warning("%s: finishing the step and saving; once more to stop at once", signal.Signals(signum).name)

    for signum in previous:
        signal.signal(signum, note)
    try:
        yield request
    finally:
        restore()
