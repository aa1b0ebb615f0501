"""What a run leaves to read."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from picie.runtime import progress, run_record
from picie.runtime.progress import Progress, set_up_logging
from picie.runtime.run_record import RunRecord, git_state, read_metrics, versions


@pytest.fixture
def own_logging() -> Iterator[logging.Logger]:
    """The package's logger, put back as it was."""
    log = logging.getLogger("picie")
    before = (log.handlers[:], log.level, log.propagate)
    yield log
    log.handlers[:], log.propagate = before[0], before[2]
    log.setLevel(before[1])


def test_the_record_keeps_its_start_and_adds_up_its_time(tmp_path: Path) -> None:
    log = RunRecord(tmp_path)
    assert log.read() == {}
    log.start({"engine": {"device": "cpu"}})
    first = log.read()
    assert first["status"] == "running"
    assert first["engine"] == {"device": "cpu"}
    assert {"started", "versions", "git", "platform"} <= set(first)
    log.update(images=7)
    log.finish("stopped", 1, 2.5, 900)
    log.update(started="long ago")
    RunRecord(tmp_path).start({"engine": {"device": "cuda"}})
    RunRecord(tmp_path).finish("finished", 3, 1.5, 800)
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert (record["started"], record["images"], record["engine"]) == ("long ago", 7, {"device": "cuda"})
    assert (record["status"], record["epochs"], record["seconds"], record["peak_memory_mb"]) == ("finished", 3, 4.0, 800)


def test_metrics_are_lines_that_are_appended(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    log = RunRecord(tmp_path)
    lines = [{"epoch": n, "loss": 1 / n, "seconds": {"train": 0.1}} for n in (1, 2, 3)]
    for line in lines:
        log.metrics(line)
    assert read_metrics(tmp_path) == log.read_metrics() == lines
    assert len((tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()) == 3


def test_what_a_killed_run_wrote_too_much_is_dropped(tmp_path: Path) -> None:
    log = RunRecord(tmp_path)
    for n in (1, 2):
        log.metrics({"epoch": n})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "lo')
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [1, 2]
    log.keep_epochs(1)
    log.metrics({"epoch": 2, "again": True})
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2, "again": True}]
    log.keep_epochs(0)
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == ""


def test_versions_name_what_results_depend_on() -> None:
    found = versions()
    assert {"python", "picie", "torch", "timm", "numpy", "pillow"} <= set(found)
    assert torch.__version__.startswith(found["torch"])


def test_git_state_is_of_this_package_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = git_state()
    assert state is None or state.removesuffix("+changes").isalnum() or "-g" in state or state.startswith("v")
    elsewhere = tmp_path / "picie" / "runlog.py"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    monkeypatch.setattr(run_record, "__file__", str(elsewhere))
    assert git_state() is None
    monkeypatch.setenv("PATH", "")
    assert git_state() is None


def test_log_lines_go_to_stderr_and_warnings_say_so(own_logging: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, expected in ((False, "plain\n"), (True, "")):
        set_up_logging(quiet)
        logging.getLogger("picie.some.module").info("plain")
        logging.getLogger("picie.some.module").warning("oh %s", "no")
        out, err = capsys.readouterr()
        assert out == ""
        assert err == expected + "picie: warning: oh no\n"
    assert len(own_logging.handlers) == 1  # also after being set up twice


@pytest.mark.parametrize(("terminal", "enabled", "shown"), [(True, True, True), (True, False, False), (False, True, False)])
def test_progress_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, enabled: bool, shown: bool
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=terminal, width=100))
    with Progress(enabled) as bars, bars.bar("label", 20) as advance:
        advance(15)
        bars._shown.refresh()
    assert ("label" in written.getvalue()) == shown
    assert ("15/20" in written.getvalue()) == shown


def test_a_bar_counts_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_a_terminal_a_line_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
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
