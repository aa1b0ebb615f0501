"""Measuring tools: separate processes, a clock that waits for the device, peak memory."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from picie.errors import PicieError, Stopped, TrainingError
from picie.runtime.progress import set_up_logging

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def in_process(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call `function` in a new process, with its own memory, threads and settings.

    Returns the result of `function`, or raises its exception.

    A process starts with the peak memory of its parent, so the parent should be small (without
    torch). The process is terminated if the parent is interrupted.

    Raises:
        TrainingError: out of memory, or the process was killed.
    """
    spawning = get_context("spawn")
    ours, theirs = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_answer, args=(theirs, function, arguments, options))
    process.start()
    theirs.close()
    try:
        result, error = ours.recv()
    except EOFError as closed:
        raise TrainingError(
            "a process of the benchmark was killed, probably because memory ran out; try fewer images"
        ) from closed
    finally:
        process.terminate()
        process.join()
    if error is not None:
        raise error
    answer: T = result
    return answer


def _answer(to: Connection, function: Callable[..., object], arguments: Any, options: Any) -> None:
    """Run in the new process: send (result, None) or (None, error)."""
    # Ctrl-C reaches the whole group; the parent reports it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # otherwise DataLoader workers would also be spawned and import torch again
    set_start_method(None, force=True)
    set_up_logging(quiet=True)  # the parent logs progress
    try:
        to.send((function(*arguments, **options), None))
    except Exception as error:
        # raised by Python, or by torch
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            error = TrainingError("the benchmark is out of memory; lower --batch-size or --size")
        elif not isinstance(error, PicieError):
            traceback.print_exc()  # tracebacks are not pickled
        to.send((None, error))


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into an exception inside the block, so that it cleans up; does nothing outside
    the main thread.

    Raises:
        Stopped: SIGTERM was received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum, "stopped")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, including queued work on a GPU."""
    began = _now(device)
    work()
    return _now(device) - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def peaks(device: torch.device) -> dict[str, int | None]:
    """Peak memory so far in MB: of this process, and of its tensors on a GPU (None without one)."""
    import torch

    from picie.runtime.system_calls import peak_memory_mb

    vram = round(torch.cuda.max_memory_allocated(device) / 1e6) if device.type == "cuda" else None
    return {"peak_memory_mb": round(peak_memory_mb()), "peak_vram_mb": vram}
