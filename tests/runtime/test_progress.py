"""Log lines and progress bars."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from picie.runtime import progress
from picie.runtime.progress import Progress, set_up_logging


@pytest.fixture
def own_logging() -> Iterator[logging.Logger]:
    """The logger of the package, restored afterwards."""
    log = logging.getLogger("picie")
    before = (log.handlers[:], log.level, log.propagate)
    yield log
    log.handlers[:], log.propagate = before[0], before[2]
    log.setLevel(before[1])


def test_log_lines_go_to_stderr_and_warnings_are_marked(
    own_logging: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet, expected in ((False, "plain\n"), (True, "")):
        set_up_logging(quiet)
        logging.getLogger("picie.some.module").info("plain")
        logging.getLogger("picie.some.module").warning("oh %s", "no")
        out, err = capsys.readouterr()
        assert out == ""
        assert err == expected + "picie: warning: oh no\n"
    assert len(own_logging.handlers) == 1  # also after being set up twice


@pytest.mark.parametrize(("terminal", "enabled", "shown"), [(True, True, True), (True, False, False), (False, True, False)])
def test_bars_are_shown_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, enabled: bool, shown: bool) -> None:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=terminal, width=100))
    with Progress(enabled) as bars, bars.bar("label", 20) as advance:
        advance(15)
        bars._shown.refresh()
    assert ("label" in written.getvalue()) == shown
    assert ("15/20" in written.getvalue()) == shown


def test_a_bar_counts_and_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Progress(False) as bars:
        with bars.bar("train", 10) as advance:
            advance(3)
            advance(4)
            (task,) = bars._shown.tasks
            assert (task.description, task.completed, task.total) == ("train", 7, 10)
        assert not bars._shown.tasks
        with pytest.raises(ValueError, match="inside"), bars.bar("train", 10):
            raise ValueError("inside")
        assert not bars._shown.tasks


def test_without_a_terminal_progress_is_logged(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    with Progress() as bars:
        with bars.bar("quick", 3) as advance:
            advance(1)
        assert not told
        monkeypatch.setattr(progress, "_LINE_EVERY", -1.0)
        with bars.bar("slow", 3000) as advance:
            advance(2000)
        with bars.bar("unknown", None) as advance:
            advance(2)
    assert told == ["slow: 2,000 of 3,000", "unknown: 2"]
