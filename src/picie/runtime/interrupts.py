"""Turns SIGINT and SIGTERM into requests to stop at the next safe point."""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from picie.errors import Stopped
from picie.runtime import distributed

log = logging.getLogger(__name__)
_GRACE = 5.0  # seconds
_of_thread = threading.local()  # `request`: the stop request of a thread that `stopped_by` a program


class StopRequest:
    """A stop request, set by SIGINT or SIGTERM while `graceful_stop` is active, or by `ask`."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def ask(self) -> None:
        """Request a stop, as SIGINT does."""
        self.signum = signal.SIGINT

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
def graceful_stop(then: str) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one has its normal effect.

    Python handles signals only in the main thread. In any other thread the request is that of
    `stopped_by`, or one that nothing sets.

    Args:
        then: what is done before the command ends, for the message, e.g. "finishing the step".
    """
    request: StopRequest = getattr(_of_thread, "request", None) or StopRequest()
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
        log.warning("%s: %s; send it again to stop at once", signal.Signals(signum).name, then)

    for signum in previous:
        signal.signal(signum, handle)
    try:
        yield request
    finally:
        restore()


@contextlib.contextmanager
def stopped_by(request: StopRequest) -> Iterator[None]:
    """Let `request` stop what this thread, which is not the main one, does in the block."""
    _of_thread.request = request
    try:
        yield
    finally:
        del _of_thread.request


def end_at_signals() -> None:
    """Make SIGINT and SIGTERM end this process, at the latest after a few seconds.

    SIGINT raises `KeyboardInterrupt`, SIGTERM raises `SystemExit`. A thread that is blocked, e.g.
    by a network drive that no longer answers, would keep the process from ending; after `_GRACE`
    seconds it ends anyway.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        timer = threading.Timer(_GRACE, os._exit, (128 + signum,))
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background jobs with SIGINT ignored.
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, handle)


def stop_with_parent() -> None:
    """Send SIGTERM to this process when the parent, which holds the other end of stdin, ends."""

    def wait() -> None:
        # `sys.stdin` has a lock, which would abort the interpreter at exit while it is held.
        while os.read(0, 1):
            pass
        if os.name == "nt":  # there, os.kill would end the process at once
            _thread.interrupt_main(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="picie-parent", daemon=True).start()
