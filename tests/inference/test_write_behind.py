"""Work that threads do behind the network."""

from __future__ import annotations

import threading
import time

import pytest

from picie.inference import write_behind
from picie.inference.write_behind import WriteBehind


def test_results_are_taken_in_order_by_the_thread_that_submits() -> None:
    taken, threads = [], set()

    def take(number: int) -> None:
        taken.append(number)
        threads.add(threading.current_thread())

    def work(number: int) -> int:
        time.sleep(0.01 if number % 2 else 0)
        return number

    with WriteBehind[int](4) as behind:
        for number in range(20):
            behind.submit(lambda number=number: work(number), take, 1)
    assert taken == list(range(20))
    assert threads == {threading.current_thread()}


def test_work_in_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_behind, "_BYTES", 100)
    held, most = 0, 0

    def take(cost: int) -> None:
        nonlocal held
        held -= cost

    with WriteBehind[int](2) as behind:
        for cost in (60, 60, 60, 60, 500, 10, 10, 10, 10, 10, 10):
            behind.submit(lambda cost=cost: cost, take, cost)
            held += cost
            most = max(most, held if cost < 500 else 0)
            assert held <= 200 or held == 500
    assert (held, most > 60) == (0, True)


def test_an_error_of_a_thread_is_raised_and_the_others_finish() -> None:
    done: list[int] = []
    both_are_submitted = threading.Event()

    def fail() -> int:
        both_are_submitted.wait()
        raise OSError("disk")

    with WriteBehind[int](1) as behind:
        behind.submit(fail, done.append, 1)
        behind.submit(lambda: 2, done.append, 1)
        both_are_submitted.set()
        with pytest.raises(OSError, match="disk"):
            behind.finish()
    assert done == [2]
