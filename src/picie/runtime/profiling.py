"""Measures where time is spent, with named stages in the code and a stopwatch.

Stages can be nested, e.g. "forward" in "train"; time is counted once, for the innermost. Without a
stopwatch a stage costs a microsecond and never synchronises.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch


class Stopwatch:
    """Seconds by stage.

    Attributes:
        seconds: Exclusive time by the stages around it, outermost first: {("train", "forward"):
            2.5, ...}.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._open: tuple[str, ...] = ()
        self._since = self._now()

    def enter(self, name: str) -> None:
        """Begin a stage."""
        self._charge()
        self._open = (*self._open, name)

    def leave(self) -> None:
        """End the innermost stage."""
        self._charge()
        self._open = self._open[:-1]

    def _charge(self) -> None:
        now = self._now()
        self.seconds[self._open] += now - self._since
        self._since = now

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # queued work counts towards the earlier stage
        return time.perf_counter()


_running: Stopwatch | None = None


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark the block as the stage `name`; use it in the main thread only."""
    watch = _running
    if watch is None:
        yield
        return
    watch.enter(name)
    try:
        yield
    finally:
        watch.leave()


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure the stages in the block.

    On a GPU each stage then synchronises with the device, so the block takes longer.
    """
    global _running
    before, _running = _running, Stopwatch()
    try:
        yield _running
        _running.leave()
    finally:
        _running = before
