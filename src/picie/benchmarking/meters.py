"""What a benchmark measures with: processes of their own, a clock that waits for the device, peaks of memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, set_start_method
from typing import TYPE_CHECKING, Any, TypeVar

from picie.errors import TrainingError
from picie.runlog import log, set_up_logging

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def in_process(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """What `function` returns, or raises, in a new process: with memory, threads and settings of its own.

    A process begins with the peak memory of the one that starts it, so that should be a small one (without torch).

    Raises:
        TrainingError: memory ran out, or the process was killed.
    """
    quiet = log.getEffectiveLevel() > logging.INFO
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, (quiet,)) as pool:
        try:
            found: T = pool.submit(_guarded, function, *arguments, **options).result()
        except BrokenProcessPool as error:
            raise TrainingError("a process of the benchmark was killed; is there memory enough? Try fewer images") from error
    return found


def _begin(quiet: bool) -> None:
    """What a new process does first."""
    set_start_method(None, force=True)  # else its own workers, a DataLoader's, would all import torch anew, as it had to
    set_up_logging(quiet)


def _guarded(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    try:
        return function(*arguments, **options)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's is a RuntimeError
            raise TrainingError("the benchmark is out of memory; lower --batch-size or --size") from error
        raise


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, what it leaves to a GPU included."""
    began = _now(device)
    work()
    return _now(device) - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def peaks(device: torch.device) -> dict[str, int | None]:
    """Peak memory so far, in MB: of this process, and of its tensors on a GPU or None."""
    import torch

    from picie.engine import peak_memory_mb

    vram = round(torch.cuda.max_memory_allocated(device) / 1e6) if device.type == "cuda" else None
    return {"peak_memory_mb": round(peak_memory_mb()), "peak_vram_mb": vram}
