"""Device, precision and stopping: everything about the machine that a run must know."""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import torch
from torch import Tensor, nn

from picie.errors import InputError, Stopped

log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """The device that `run.device` names; "auto" is cuda, else mps, else cpu.

    Raises:
        InputError: an unknown device or one that is not here.
    """
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


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _has_depthwise(network: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in network.modules())


class Engine:
    """A device and the precision that pays on it.

    bf16 pays on GPUs that have it. On CPUs that have it (AMX, AVX512-BF16) it pays forwards, and backwards unless the network
    has depthwise convolutions, whose bf16 backward is slower than fp32's: measured on 2 cores with AVX512-BF16, ms per image
    at 160 px and batch 16, fp32 against bf16: ResNet-18 train 21 / 11, forward 5.2 / 3.2; EfficientNet-Lite0 train 21 / 27, forward
    3.3 / 2.1 (channels_last throughout; without it 1.2 to 2.4 times slower).

    Args:
        device: where to compute.
        precision: "auto", "fp32" or "bf16".
        network: the network whose operations decide "auto" on a CPU.
    """

    def __init__(self, device: torch.device, precision: str, network: nn.Module) -> None:
        self.device = device
        if precision == "auto":
            if device.type == "cuda":
                forward = train = torch.cuda.is_bf16_supported()
            else:
                forward = device.type == "cpu" and _cpu_has_bf16()
                train = forward and not _has_depthwise(network)
        else:
            forward = train = precision == "bf16"
        self.bf16_forward, self.bf16_train = forward, train
        network.to(device=device, memory_format=torch.channels_last)

    def autocast(self, training: bool) -> torch.autocast:
        """The autocast context of a training step or of a forward pass without gradients."""
        enabled = self.bf16_train if training else self.bf16_forward
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def to_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 on the CPU -> float32 in [0, 1] on the device."""
        return pixels.to(self.device, non_blocking=True).float().div_(255)

    def describe(self) -> dict[str, object]:
        """Device and precisions, for the run's record."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {
            "device": name,
            "train_precision": "bf16" if self.bf16_train else "fp32",
            "forward_precision": "bf16" if self.bf16_forward else "fp32",
            "threads": torch.get_num_threads(),
        }


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


class StopRequest:
    """Set by SIGINT or SIGTERM while `graceful_stop` is active."""

    def __init__(self) -> None:
        self.signum: int | None = None

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
