"""Signals become requests to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.forked import SECONDS, forked

from picie.errors import Stopped
from picie.runtime import interrupts
from picie.runtime.interrupts import end_at_signals, graceful_stop, stop_with_parent


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_takes_effect(signum: signal.Signals) -> None:
    second: list[int] = []
    before = signal.signal(signum, lambda number, _: second.append(number))
    try:
        with graceful_stop("saving") as stop:
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

    with graceful_stop("saving") as stop:
        with monkeypatch.context() as patched:
            patched.setattr("picie.runtime.distributed.all_reduce_max", too_late)
            assert not stop.is_asked()  # all get one answer
        assert stop.signum == signal.SIGTERM
        assert stop.is_asked()
        with pytest.raises(Stopped):
            stop.check()


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), graceful_stop("saving"):
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise RuntimeError
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_do_not_handle_signals() -> None:
    seen: list[object] = []

    def run() -> None:
        with graceful_stop("saving") as stop:
            seen.append(stop.signum)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]


def _blocked() -> None:
    interrupts._GRACE = 0.1
    end_at_signals()
    threading.Thread(target=threading.Event().wait).start()
    print("ready", flush=True)
    time.sleep(SECONDS)


def _ignoring(answer: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_at_signals()
    print("ready", flush=True)
    while not answer.exists():
        time.sleep(0.01)
    sys.exit(4)


def _child(pipe: Path, seconds: float) -> None:
    end_at_signals()
    os.dup2(os.open(pipe, os.O_RDONLY), 0)
    stop_with_parent()
    print("ready", flush=True)
    time.sleep(seconds)
    sys.exit(3)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_blocked_thread_does_not_keep_the_process(signum: signal.Signals, tmp_path: Path) -> None:
    with forked(tmp_path, _blocked) as started:
        started.wait_for_output()
        began = time.monotonic()
        started.send(signum)
        assert started.wait()[0] == 128 + signum
        assert time.monotonic() - began < 20


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    with forked(tmp_path, _ignoring, tmp_path / "answer") as started:
        started.wait_for_output()
        started.send(signal.SIGINT)
        (tmp_path / "answer").touch()
        assert started.wait()[0] == 4


@pytest.mark.parametrize(("seconds", "closed", "status"), [(SECONDS, True, 128 + signal.SIGTERM), (0, False, 3)])
def test_a_process_stops_when_its_parent_is_gone_and_else_by_itself(
    tmp_path: Path, seconds: float, closed: bool, status: int
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with forked(tmp_path, _child, tmp_path / "pipe", seconds) as started:
        end = os.open(tmp_path / "pipe", os.O_WRONLY)  # waits for the reader
        started.wait_for_output()
        if closed:
            os.close(end)
        assert started.wait()[0] == status
        if not closed:
            os.close(end)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_line_is_imported_gives_one_line(signum: signal.Signals) -> None:
    arriving = (
        "import os, signal, sys\nfrom picie.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell ignores it
        f"class Finder:\n    def find_spec(name, *_):\n        name == 'picie.cli.main' and os.kill(os.getpid(), {signum:d})\n"
        "sys.meta_path.insert(0, Finder)\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", arriving], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signum, "", "picie: stopped\n")
