"""Where time goes: marks in the code, and a stopwatch for whoever asks.

A mark is a name for what runs inside it. Marks lie in each other, "train" around "forward", and time is counted once, for the
innermost. While no stopwatch runs, a mark costs a microsecond and waits for nothing.
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
        seconds: exclusive time by the marks around it, outermost first: {("train", "forward"): 2.5, ...}.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._open: tuple[str, ...] = ()
        self._since = self._now()

    def enter(self, name: str) -> None:
        """A stage begins."""
        self._charge()
        self._open = (*self._open, name)

    def leave(self) -> None:
        """The innermost stage ends."""
        self._charge()
        self._open = self._open[:-1]

    def _charge(self) -> None:
        now = self._now()
        self.seconds[self._open] += now - self._since
        self._since = now

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what was asked for before counts before
        return time.perf_counter()


_running: Stopwatch | None = None


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """What runs inside is the stage `name`; in the main thread alone."""
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
    """Measure the stages of what runs inside. On a GPU each mark then waits for the device, so the whole takes longer."""
    global _running
    before, _running = _running, Stopwatch()
    try:
        yield _running
        _running.leave()
    finally:
        _running = before
