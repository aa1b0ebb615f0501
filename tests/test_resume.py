"""Going on exactly where a run stopped: after a signal at any moment, after SIGKILL, and after the end."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.comparing import assert_equal_runs
from tests.conftest import checkpoint_of

from picie import Config, training
from picie.config import to_toml
from picie.engine import Engine
from picie.errors import InputError, Stopped
from picie.runlog import RunLog, read_metrics

Make = Callable[..., Config]

VARIANTS = {
    "default": ((), None),
    "reference": ((), "reference"),
    "mdc": (("method=mdc",), None),
    "warm": (("cluster.warm_start=true", "loss.mse=true", "loss.class_weights=inverse"), None),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A configuration and the folder of its run, trained without an interruption."""
    overrides, preset = VARIANTS[request.param]
    config = tiny(*overrides, preset=preset)
    return config, training.train(config, tmp_path_factory.mktemp("whole") / "run")


class SignalAt:
    """Raises a signal in this process when the network is about to see its n-th batch, whatever it is for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen, self.at, self.signum = 0, -1, signal.SIGINT
        plain = Engine.to_images

        def counted(engine: Engine, pixels: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            if self.seen == self.at:
                os.kill(os.getpid(), self.signum)
            return plain(engine, pixels)

        monkeypatch.setattr(Engine, "to_images", counted)

    def arm(self, n: int, signum: signal.Signals = signal.SIGINT) -> None:
        self.seen, self.at, self.signum = 0, n, signum


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> SignalAt:
    return SignalAt(monkeypatch)


def test_a_run_stopped_at_any_moment_goes_on_to_the_same_end(
    variant: tuple[Config, Path], tmp_path: Path, signal_at: SignalAt
) -> None:
    config, whole = variant
    signal_at.arm(-1)
    training.train(config, tmp_path / "counted")
    batches, stops, steps = signal_at.seen, 0, set()
    for n in range(1, batches, 3):
        run = tmp_path / f"run{n}"
        signal_at.arm(n)
        try:
            training.train(config, run)
        except Stopped as stopped:
            assert stopped.signum == signal.SIGINT
            assert f"--resume {run}" in str(stopped)
            stops += 1
            steps.add(checkpoint_of(run)["step"] if (run / "checkpoint.pt").is_file() else -1)
        signal_at.arm(-1)
        training.resume(run)
        assert_equal_runs(run, whole)
    assert stops >= batches // 3 - 2  # all but those after the last step, when the run is as good as done
    assert 0 in steps  # between epochs
    assert steps & {1, 2}  # in the middle of one


def test_a_run_may_be_stopped_again_and_again(variant: tuple[Config, Path], tmp_path: Path, signal_at: SignalAt) -> None:
    config, whole = variant
    run, stops = tmp_path / "run", 0
    signal_at.arm(9, signal.SIGTERM)
    while True:
        try:
            training.resume(run) if stops else training.train(config, run)
            break
        except Stopped as stopped:
            assert stopped.signum == signal.SIGTERM
            stops += 1
            signal_at.arm(6, signal.SIGTERM)
    assert stops >= 2
    assert_equal_runs(run, whole)
    assert RunLog(run).read()["status"] == "finished"


def test_a_run_stopped_before_its_first_checkpoint_starts_over(tiny: Make, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(to_toml(tiny()), "utf-8")
    training.resume(run)
    assert_equal_runs(run, trained)


def test_a_finished_run_is_left_as_it_is(own_run: Path, trained: Path) -> None:
    training.resume(own_run)
    assert_equal_runs(own_run, trained)
    assert RunLog(own_run).read()["status"] == "finished"
    assert RunLog(own_run).read()["started"] == RunLog(trained).read()["started"]


def test_a_finished_run_without_epochs_is_left_as_it_is(tiny: Make, tmp_path: Path) -> None:
    run = training.train(tiny("train.epochs=0"), tmp_path / "run")
    before = shutil.copytree(run, tmp_path / "before")
    training.resume(run)
    assert_equal_runs(run, before)


def test_more_epochs_give_what_a_longer_run_gives(tiny: Make, tmp_path: Path) -> None:
    """At a constant learning rate; a cosine takes its length from the number of epochs."""
    longer = training.train(tiny("train.epochs=3", "train.schedule=constant"), tmp_path / "longer")
    run = training.train(tiny("train.schedule=constant"), tmp_path / "run")
    training.resume(run, ["train.epochs=3", "run.workers=1"])
    assert_equal_runs(run, longer)
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]


def test_more_epochs_go_on_where_the_longer_cosine_stands(own_run: Path) -> None:
    training.resume(own_run, ["train.epochs=4"])
    assert [line["epoch"] for line in read_metrics(own_run)] == [1, 2, 3, 4]
    rate = checkpoint_of(own_run)["optimizers"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-4 * 0.5 * (1 + math.cos(math.pi * 11 / 12)))  # of the last of 4 x 3 steps


@pytest.mark.parametrize("override", ["train.lr=1", "seed=3", "cluster.k=4", "data.root=elsewhere", "train.epochs_=3"])
def test_nothing_else_may_change(own_run: Path, trained: Path, override: str) -> None:
    with pytest.raises(InputError, match=f"{override}.*would change it"):
        training.resume(own_run, [override])
    assert (own_run / "config.toml").read_bytes() == (trained / "config.toml").read_bytes()


def test_changed_data_is_noticed(own_folder: Path, tiny: Make, tmp_path: Path, signal_at: SignalAt) -> None:
    run = tmp_path / "run"
    signal_at.arm(10)
    with pytest.raises(Stopped):
        training.train(tiny(f"data.root={own_folder}"), run)
    signal_at.arm(-1)
    images = own_folder / "images" / "train"
    for change in ("rename", "add", "remove"):
        shutil.copytree(images, own_folder / "kept")
        if change == "rename":
            (images / "000.jpg").rename(images / "zzz.jpg")
        elif change == "add":
            shutil.copy(images / "000.jpg", images / "zzz.jpg")
        else:
            (images / "005.jpg").unlink()
        with pytest.raises(InputError, match=r"--resume .* the images of .* have changed"):
            training.resume(run)
        shutil.rmtree(images)
        (own_folder / "kept").rename(images)
    training.resume(run)


@pytest.mark.parametrize("damage", ["gone", "other shape"])
def test_a_step_is_not_taken_without_its_pseudo_labels(tiny: Make, tmp_path: Path, signal_at: SignalAt, damage: str) -> None:
    run = tmp_path / "run"
    signal_at.arm(9)
    with pytest.raises(Stopped):
        training.train(tiny(), run)
    assert checkpoint_of(run)["step"] > 0
    signal_at.arm(-1)
    if damage == "gone":
        (run / "pseudo_labels.npy").unlink()
    else:
        np.save(run / "pseudo_labels.npy", np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"pseudo_labels\.npy"):
        training.resume(run)


def test_what_is_no_run_is_not_resumed(own_run: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=r"holds no run \(no config\.toml\)"):
            training.resume(folder)
    (own_run / "checkpoint.pt").write_bytes(b"garbage")
    with pytest.raises(InputError, match="not a checkpoint of picie"):
        training.resume(own_run)


SCRIPT = """
import os, sys
from picie.engine import Engine
from picie.cli import main
plain, seen = Engine.to_images, 0
def counted(engine, pixels):
    global seen
    seen += 1
    if seen == {at}:
        os.kill(os.getpid(), {signum})
    return plain(engine, pixels)
Engine.to_images = counted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("signum", "at", "status"),
    [(signal.SIGTERM, 9, 143), (signal.SIGINT, 5, 130), (signal.SIGKILL, 19, -signal.SIGKILL)],
    ids=["SIGTERM-in-a-step", "SIGINT-in-clustering", "SIGKILL-in-epoch-2"],
)
def test_a_stopped_process_says_so_and_can_go_on(
    tiny: Make, trained: Path, tmp_path: Path, signum: signal.Signals, at: int, status: int
) -> None:
    config, run = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(to_toml(tiny()), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(at=at, signum=int(signum)), "train", "--config", config, "--out", run],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    if signum == signal.SIGKILL:
        assert checkpoint_of(run)["epoch"] == 1
    else:
        last = done.stderr.splitlines()[-1]
        assert re.fullmatch(rf"picie: stopped .*; go on with: picie train --resume {run}", last)
        assert RunLog(run).read()["status"] == "stopped"
    assert not list(run.glob(".*"))
    training.resume(run)
    assert_equal_runs(run, trained)
