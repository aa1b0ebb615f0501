"""Turns SIGINT and SIGTERM into requests to stop at the next safe point."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from picie.errors import Stopped
from picie.runtime import distributed

log = logging.getLogger(__name__)


class StopRequest:
    """A stop request, set by SIGINT or SIGTERM while `graceful_stop` is active."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def is_asked(self) -> bool:
        """Return whether a signal has arrived here or in another process of the run.

        All processes must call this, and all get the same answer.
        """
        signum = distributed.all_reduce_max(self.signum or 0)
        if signum and self.signum is None:  # otherwise a signal arrived here while waiting; keep it
            self.signum = signum
        return signum > 0

    def check(self, message: str = "stopped; nothing was lost") -> None:
        """Raise `Stopped` if a signal has arrived."""
        if self.signum is not None:
            raise Stopped(self.signum, message)


@contextlib.contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one has its normal effect.

    Python handles signals only in the main thread; in any other thread this does nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def handle(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        restore()
        log.warning("%s: finishing the step and saving; send it again to stop at once", signal.Signals(signum).name)

    for signum in previous:
        signal.signal(signum, handle)
    try:
        yield request
    finally:
        restore()
