"""Processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from benchmarks.meters import in_process, stoppable
from picie.config import load
from picie.errors import InputError, Stopped, TrainingError


def test_it_runs_in_another_process_whose_own_begin_as_usual() -> None:
    assert in_process(os.getpid) != os.getpid()
    assert in_process(multiprocessing.get_start_method) == multiprocessing.get_context().get_start_method()


def test_what_is_refused_there_is_refused_here() -> None:
    with pytest.raises(InputError, match="unknown preset 'nothing'"):
        in_process(load, "nothing")


def test_a_mistake_is_told_with_where_it_was_made(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        in_process(divmod, 1, 0)
    assert "Traceback" in capfd.readouterr().err


def test_a_process_that_dies_is_one_line() -> None:
    with pytest.raises(TrainingError, match="was killed"):
        in_process(os._exit, 9)


def test_sigterm_ends_the_process_and_what_it_waits_for() -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), stoppable():
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        in_process(time.sleep, 600)
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGTERM) is before
