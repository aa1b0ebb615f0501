"""The records in a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from picie.runtime import run_record
from picie.runtime.run_record import RunRecord, git_state, read_metrics, versions


def test_the_record_keeps_its_start_and_sums_its_time(tmp_path: Path) -> None:
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


def test_metrics_are_appended(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    log = RunRecord(tmp_path)
    lines = [{"epoch": n, "loss": 1 / n, "seconds": {"train": 0.1}} for n in (1, 2, 3)]
    for line in lines:
        log.metrics(line)
    assert read_metrics(tmp_path) == log.read_metrics() == lines
    assert len((tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()) == 3


def test_metrics_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
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


def test_versions_name_packages_that_affect_results() -> None:
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
