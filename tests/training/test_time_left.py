"""The time left of a run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import TINY

from picie.runtime.progress import Progress
from picie.training.time_left import TimeLeft


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which the test changes."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_first_epoch_is_estimated_from_its_training_steps(clock: list[float]) -> None:
    left = TimeLeft(epochs=3)
    left.begin_pass()
    clock[0] += 10
    assert left.estimate(0, {}, 0) is None
    passes = {"label": left.end_pass()}
    left.begin_pass()
    clock[0] += 5
    assert left.estimate(0, passes, 0) is None
    assert left.estimate(0, passes, 0.25) == pytest.approx(3 * (10 + 20) - 15)
    clock[0] += 15
    passes["train"] = left.end_pass()
    assert left.estimate(1, passes, 0) == pytest.approx(2 * 30)


def test_later_epochs_are_estimated_from_those_before(clock: list[float]) -> None:
    left = TimeLeft(epochs=4)
    left.end_epoch({"label": 10, "train": 20})
    left.end_epoch({"label": 20, "train": 30})
    assert left.estimate(2, {}, 0) == 80
    left.begin_pass()
    clock[0] += 4
    assert left.estimate(2, {"label": 10}, 0.1) == 66
    assert left.estimate(2, {"label": 100}, 0.1) == 0


def test_the_rest_of_a_resumed_epoch_says_nothing(clock: list[float]) -> None:
    left = TimeLeft(epochs=4)
    left.begin_pass()
    clock[0] += 4
    assert left.estimate(1, {}, 0.9) is None
    left.end_epoch({"train": left.end_pass()})
    assert left.estimate(2, {}, 0) is None


def test_bars_show_the_time_left_of_the_run() -> None:
    bars = Progress()
    assert bars.run_left() == ""
    bars.seconds_left = lambda: 5400
    assert bars.run_left() == "(run: about 90 min left)"


def test_an_epoch_s_line_says_how_long_the_run_takes(
    cli: Callable[..., tuple[int, str, str]], labelled_folder: Path, tmp_path: Path
) -> None:
    status, _, stderr = cli("train", labelled_folder, "--out", tmp_path / "run", *TINY)
    assert status == 0
    assert re.search(r"epoch 1/2 .* s, about \d+ s left\n", stderr)
    assert re.search(r"epoch 2/2 .* s\n", stderr)
