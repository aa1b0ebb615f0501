"""Signals become requests to stop."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from picie.errors import Stopped
from picie.runtime.interrupts import graceful_stop


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_takes_effect(signum: signal.Signals) -> None:
    second: list[int] = []
    before = signal.signal(signum, lambda number, _: second.append(number))
    try:
        with graceful_stop() as stop:
            stop.check()  # nothing yet
            os.kill(os.getpid(), signum)
            with pytest.raises(Stopped, match="enough") as stopped:
                stop.check("enough")
            assert stopped.value.signum == signum
            assert not second
            os.kill(os.getpid(), signum)
            assert second == [signum]
    finally:
        signal.signal(signum, before)


def test_a_signal_during_the_exchange_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(value: int) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0  # the answer of all before the signal

    with graceful_stop() as stop:
        with monkeypatch.context() as patched:
            patched.setattr("picie.runtime.distributed.all_reduce_max", too_late)
            assert not stop.is_asked()  # all get one answer
        assert stop.signum == signal.SIGTERM
        assert stop.is_asked()
        with pytest.raises(Stopped):
            stop.check()


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), graceful_stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise RuntimeError
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_do_not_handle_signals() -> None:
    seen: list[object] = []

    def run() -> None:
        with graceful_stop() as stop:
            seen.append(stop.signum)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]
