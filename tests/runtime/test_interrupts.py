"""Signals become requests to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

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


def process(code: str) -> subprocess.Popen[bytes]:
    """A Python process that prints a byte when it is ready."""
    lines = [
        "import os, signal, sys, threading, time",
        "from picie.runtime.interrupts import *",
        "import picie.runtime.interrupts as i",
    ]
    # a background job of a shell ignores SIGINT
    lines += ["signal.signal(signal.SIGINT, signal.default_int_handler)", code]
    started = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.read(1) == b"r"
    return started


READY = "os.write(1, b'r')\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_blocked_thread_does_not_keep_the_process(signum: signal.Signals) -> None:
    blocked = "threading.Thread(target=threading.Event().wait).start()\n"
    started = process(f"i._GRACE = 0.1\nend_at_signals()\n{blocked}{READY}time.sleep(60)")
    began = time.monotonic()
    started.send_signal(signum)
    started.communicate(timeout=30)
    assert started.returncode == 128 + signum
    assert time.monotonic() - began < 20


def test_an_ignored_interrupt_stays_ignored() -> None:
    started = process(f"signal.signal(signal.SIGINT, signal.SIG_IGN)\nend_at_signals()\n{READY}sys.exit(len(sys.stdin.read()))")
    started.send_signal(signal.SIGINT)
    started.communicate(b"four", timeout=30)
    assert started.returncode == 4


def test_a_process_stops_when_its_parent_is_gone() -> None:
    started = process(f"end_at_signals()\nstop_with_parent()\n{READY}time.sleep(60)")
    assert started.stdin is not None
    started.stdin.close()
    started.wait(30)
    assert started.returncode == 128 + signal.SIGTERM


def test_a_process_ends_by_itself_while_its_parent_lives() -> None:
    started = process(f"stop_with_parent()\n{READY}sys.exit(3)")
    assert started.wait(30) == 3
    started.communicate()
