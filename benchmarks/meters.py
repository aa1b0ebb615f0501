"""What a benchmark measures with: processes of their own, a clock that waits for the device, peaks of memory."""

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
    """What `function` returns, or raises, in a new process: with memory, threads and settings of its own.

    A process begins with the peak memory of the one that starts it, so that should be a small one (without torch). It is ended
    if this one is interrupted.

    Raises:
        TrainingError: memory ran out, or the process was killed.
    """
    spawning = get_context("spawn")
    ours, theirs = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_answer, args=(theirs, function, arguments, options))
    process.start()
    theirs.close()
    try:
        found, error = ours.recv()
    except EOFError as nothing:
        raise TrainingError("a process of the benchmark was killed; is there memory enough? Try fewer images") from nothing
    finally:
        process.terminate()
        process.join()
    if error is not None:
        raise error
    answer: T = found
    return answer


def _answer(to: Connection, function: Callable[..., object], arguments: Any, options: Any) -> None:
    """What the new process does: send (what `function` returns, None) or (None, what it raises)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the process that began it says what ends
    set_start_method(None, force=True)  # else its own workers, a DataLoader's, would all import torch anew, as it had to
    set_up_logging(quiet=True)  # what is measured is told by the process that began it
    try:
        to.send((function(*arguments, **options), None))
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # Python's, torch's
            error = TrainingError("the benchmark is out of memory; lower --batch-size or --size")
        elif not isinstance(error, PicieError):
            traceback.print_exc()  # which does not travel
        to.send((None, error))


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM end what runs inside as an interrupt does, clearing up, where signals can be caught: in the main thread.

    Raises:
        Stopped: it came.
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

    from picie.runtime.device import peak_memory_mb

    vram = round(torch.cuda.max_memory_allocated(device) / 1e6) if device.type == "cuda" else None
    return {"peak_memory_mb": round(peak_memory_mb()), "peak_vram_mb": vram}
