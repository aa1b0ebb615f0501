"""TensorBoard and Weights & Biases beside metrics.jsonl."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from picie import Config
from picie.errors import InputError, Stopped
from picie.runtime.loggers import numbers
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import api
from picie.training.trainer import Trainer

Make = Callable[..., Config]


def points(run: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of what TensorBoard shows of `name`."""
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


class FakeWandB(types.ModuleType):
    """Stands in for wandb: keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.opened: list[dict[str, Any]] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> FakeWandB:
        self.opened.append(arguments)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.points.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandB:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_a_run_writes_its_lines_to_both(tiny: Make, tmp_path: Path, wandb: FakeWandB) -> None:
    run = api.train(tiny("run.loggers=tensorboard,wandb"), tmp_path / "run")
    lines = read_metrics(run)
    for name, value in (("miou", lambda n: n["miou"]), ("inertia/2", lambda n: n["inertia"][1])):
        assert points(run, name) == [(line["epoch"], pytest.approx(value(line))) for line in lines]
    assert wandb.points == [(line["epoch"], dict(numbers(line))) for line in lines]
    (opened,) = wandb.opened
    assert (opened["project"], opened["name"], opened["dir"]) == ("picie", "run", str(run))
    assert opened["config"]["cluster"]["k"] == 3
    assert wandb.finished == 1


def test_a_resumed_run_shows_no_point_twice(tmp_path: Path, wandb: FakeWandB) -> None:
    def opened(*names: str) -> RunRecord:
        log = RunRecord(tmp_path, names)
        log.start({})
        return log

    (tmp_path / "config.toml").write_text("seed = 1\n", "utf-8")
    log = opened("tensorboard")
    log.open_loggers()
    for n in (1, 2, 3):
        log.metrics({"epoch": n, "loss": float(n)})
    log.finish("stopped", 3, 1.0, 1)
    log = opened("tensorboard", "wandb")
    log.keep_epochs(2)  # the third was written but not saved
    log.open_loggers()
    for n in (3, 4):
        log.metrics({"epoch": n, "loss": 10.0 * n})
    log.finish("finished", 4, 1.0, 1)
    assert points(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert [(step, values["loss"]) for step, values in wandb.points] == points(tmp_path, "loss")  # it gets what it missed
    log = opened("wandb")
    log.open_loggers()
    assert wandb.opened[0]["id"] == wandb.opened[1]["id"]
    assert len(wandb.points) == 4


def test_stopping_and_going_on_keeps_the_events(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, score = tmp_path / "run", Trainer._score

    def interrupted(self: Any) -> Any:
        if self.state.epoch == 1:
            os.kill(os.getpid(), 2)
        return score(self)

    monkeypatch.setattr(Trainer, "_score", interrupted)
    with pytest.raises(Stopped):
        api.train(tiny("run.loggers=tensorboard"), run)
    api.resume(run)
    assert points(run, "miou") == [(line["epoch"], pytest.approx(line["miou"])) for line in read_metrics(run)]
    assert len(points(run, "miou")) == 2
    api.resume(run)  # finished: nothing is written any more
    assert len(list((run / "tensorboard").iterdir())) == 2


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_logger_that_is_not_installed_is_told_before_any_work(
    labelled_folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = refused("train", labelled_folder, "--out", tmp_path / "run", f"run.loggers={name}")
    assert f"run.loggers: {name} is not installed" in message
    assert f"pip install {name}" in message
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_told(labelled_folder: Path, refused: Callable[..., str]) -> None:
    assert "'tensorboard' or 'wandb'" in refused("train", labelled_folder, "run.loggers=tensorbord")


def test_a_logger_that_cannot_be_opened_costs_no_epoch(tiny: Make, tmp_path: Path, wandb: FakeWandB) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no API key")

    wandb.init = refuse  # type: ignore[assignment, method-assign]
    with pytest.raises(InputError, match=r"wandb cannot be opened \(no API key\)"):
        api.train(tiny("run.loggers=wandb", "train.epochs=1"), tmp_path / "run")
    assert read_metrics(tmp_path / "run") == []
    api.resume(tmp_path / "run", ["run.loggers="])
    assert len(read_metrics(tmp_path / "run")) == 1


def test_results_do_not_depend_on_loggers(tiny: Make, trained: Path, tmp_path: Path) -> None:
    run = api.train(tiny("run.loggers=tensorboard"), tmp_path / "run")
    ours, theirs = (torch.load(r / "checkpoint.pt", weights_only=True)["classifier"]["weight"] for r in (run, trained))
    assert torch.equal(ours, theirs)
