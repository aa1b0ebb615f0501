"""Seconds by stage, on a clock that the tests wind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from picie.runtime import profiling
from picie.runtime.profiling import stage, stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_each_second_counts_once_for_the_innermost_stage(clock: Clock) -> None:
    with stopwatch() as watch:
        clock.spend(1)
        with stage("train"):
            clock.spend(2)
            for _ in range(2):
                with stage("forward"):
                    clock.spend(4)
            clock.spend(8)
        with stage("forward"):
            clock.spend(16)
        clock.spend(32)
    assert watch.seconds == {(): 33, ("train",): 10, ("train", "forward"): 8, ("forward",): 16}


def test_without_a_stopwatch_nothing_is_recorded_and_no_clock_is_read(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopwatch() as watch:
        clock.spend(1)
    monkeypatch.setattr(profiling, "time", SimpleNamespace())  # to read it is an error
    with stage("train"):
        clock.spend(2)
    assert watch.seconds == {(): 1}


def test_an_error_ends_its_stages_and_leaves_the_stopwatch_at_work(clock: Clock) -> None:
    with stopwatch() as watch:
        with pytest.raises(KeyError), stage("train"), stage("forward"):
            clock.spend(1)
            raise KeyError
        with stage("label"):
            clock.spend(2)
    assert {marks: seconds for marks, seconds in watch.seconds.items() if seconds} == {("train", "forward"): 1, ("label",): 2}


def test_an_error_ends_the_stopwatch(clock: Clock) -> None:
    with pytest.raises(KeyError), stopwatch() as watch:
        raise KeyError
    with stage("train"):
        clock.spend(1)
    assert not any(watch.seconds.values())


def test_of_two_stopwatches_the_inner_one_records_and_the_outer_goes_on_after(clock: Clock) -> None:
    with stopwatch() as outer, stage("epoch"):
        with stopwatch() as inner, stage("train"):
            clock.spend(1)
        with stage("label"):
            clock.spend(2)
    assert inner.seconds[("train",)] == 1
    assert not any("train" in marks for marks in outer.seconds)
    assert outer.seconds[("epoch", "label")] == 2
