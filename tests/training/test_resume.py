"""Going on exactly where a run stopped: after a signal at any moment, after SIGKILL, and after the end."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SMOOTHED, checkpoint_of
from tests.equal_runs import assert_equal_runs
from tests.forked import forked

from picie import Config, Segmenter
from picie.cli.main import main
from picie.config import to_toml
from picie.errors import InputError, Stopped
from picie.runtime.device import Engine
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import api
from picie.training.view_cache import ViewCache

Make = Callable[..., Config]

VARIANTS = {
    "default": (SMOOTHED, None),
    "reference": ((), "reference"),
    "mdc": (("method=mdc",), None),
    "warm": ((*SMOOTHED, "loss.mse=true", "loss.class_weights=inverse", "cluster.over_k=9"), None),
    "frozen": (("model.freeze=true",), None),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A configuration and the folder of its run, trained without an interruption."""
    overrides, preset = VARIANTS[request.param]
    config = tiny(*overrides, preset=preset)
    return config, api.train(config, tmp_path_factory.mktemp("whole") / "run")


class SignalAt:
    """Raises a signal in this process when the network is about to see its n-th batch, whatever it is for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen, self.at, self.signum = 0, -1, signal.SIGINT
        plain = Engine.to_images

        def counted(engine: Engine, *what: object) -> torch.Tensor:
            self.seen += 1
            if self.seen == self.at:
                os.kill(os.getpid(), self.signum)
            return plain(engine, *what)  # type: ignore[arg-type]

        monkeypatch.setattr(Engine, "to_images", counted)
        monkeypatch.setattr(ViewCache, "put", lambda *_: None)  # or labelling would not ask for its images again

    def arm(self, n: int, signum: signal.Signals = signal.SIGINT) -> None:
        self.seen, self.at, self.signum = 0, n, signum


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> SignalAt:
    return SignalAt(monkeypatch)


@pytest.mark.parametrize("every", [6, pytest.param(3, marks=pytest.mark.long)])  # every moment: two minutes more
def test_a_run_stopped_at_any_moment_goes_on_to_the_same_end(
    variant: tuple[Config, Path], tmp_path: Path, signal_at: SignalAt, every: int
) -> None:
    config, whole = variant
    signal_at.arm(-1)
    api.train(config, tmp_path / "counted")
    batches, ends, steps = signal_at.seen, 0, set()
    moments = [*range(1, batches, every), batches]
    for n in moments:
        run = tmp_path / f"run{n}"
        signal_at.arm(n)
        with pytest.raises(Stopped) as stopped:
            api.train(config, run)
        assert stopped.value.signum == signal.SIGINT
        state = checkpoint_of(run) if (run / "checkpoint.pt").is_file() else {"epoch": 0, "step": -1, "finished": False}
        steps.add(state["step"])
        if state["finished"]:
            ends += 1
            assert str(stopped.value) == "stopped after the last epoch; nothing is left to do"
            assert_equal_runs(run, whole)
        else:
            assert f"--resume {run}" in str(stopped.value)
        assert RunRecord(run).read()["status"] == ("finished" if state["finished"] else "stopped")
        if state["epoch"] or state["step"] > 0:
            matched = state["step"] == 0  # within an epoch the clusters are new, and no evaluation has matched them
            assert Segmenter.load(run).names[0] == ("red" if matched else "cluster 0")
            assert (state["matching"] is not None) == matched
        signal_at.arm(-1)
        api.resume(run)
        assert_equal_runs(run, whole)
    assert ends >= 1  # after the last step
    if every == 3:
        assert 0 in steps  # between epochs
        assert steps & {1, 2}  # in the middle of one


def test_a_run_may_be_stopped_again_and_again(variant: tuple[Config, Path], tmp_path: Path, signal_at: SignalAt) -> None:
    config, whole = variant
    run, stops = tmp_path / "run", 0
    signal_at.arm(9, signal.SIGTERM)
    while True:
        try:
            api.resume(run) if stops else api.train(config, run)
            break
        except Stopped as stopped:
            assert stopped.signum == signal.SIGTERM
            stops += 1
            signal_at.arm(6, signal.SIGTERM)
    assert stops >= 2
    assert_equal_runs(run, whole)
    assert RunRecord(run).read()["status"] == "finished"


def test_a_run_stopped_before_its_first_checkpoint_starts_over(tiny: Make, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(to_toml(tiny()), "utf-8")
    api.resume(run)
    assert_equal_runs(run, trained)


def test_a_finished_run_is_left_as_it_is(own_run: Path, trained: Path) -> None:
    api.resume(own_run)
    assert_equal_runs(own_run, trained)
    assert RunRecord(own_run).read()["status"] == "finished"
    assert RunRecord(own_run).read()["started"] == RunRecord(trained).read()["started"]


def test_a_finished_run_without_epochs_is_left_as_it_is(tiny: Make, tmp_path: Path) -> None:
    run = api.train(tiny("train.epochs=0"), tmp_path / "run")
    before = shutil.copytree(run, tmp_path / "before")
    api.resume(run)
    assert_equal_runs(run, before)


def test_more_epochs_give_what_a_longer_run_gives(tiny: Make, tmp_path: Path) -> None:
    """At a constant learning rate; a cosine takes its length from the number of epochs."""
    longer = api.train(tiny("train.epochs=3", "train.schedule=constant"), tmp_path / "longer")
    run = api.train(tiny("train.schedule=constant"), tmp_path / "run")
    api.resume(run, ["train.epochs=3", "run.workers=1"])
    assert_equal_runs(run, longer)
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]


@pytest.mark.parametrize("options", [SMOOTHED, (*SMOOTHED, "cluster.refit=0"), ()], ids=["smoothed", "no refit", "cells"])
def test_epochs_after_a_run_of_none_give_what_a_new_run_gives(tiny: Make, tmp_path: Path, options: tuple[str, ...]) -> None:
    whole = api.train(tiny("train.epochs=2", *options), tmp_path / "whole")
    run = api.train(tiny("train.epochs=0", *options), tmp_path / "run")
    api.resume(run, ["train.epochs=2"])
    assert [line["epoch"] for line in read_metrics(run)] == [0, 1, 2]
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")
    assert_equal_runs(run, whole)


def test_more_epochs_go_on_where_the_longer_cosine_stands(own_run: Path) -> None:
    api.resume(own_run, ["train.epochs=4"])
    assert [line["epoch"] for line in read_metrics(own_run)] == [1, 2, 3, 4]
    rate = checkpoint_of(own_run)["optimizers"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-4 * 0.5 * (1 + math.cos(math.pi * 11 / 12)))  # of the last of 4 x 3 steps


@pytest.mark.parametrize("override", ["train.lr=1", "seed=3", "cluster.k=4", "data.name=scenes", "train.epochs_=3"])
def test_nothing_else_may_change(own_run: Path, trained: Path, override: str) -> None:
    with pytest.raises(InputError, match=f"{override}.*would change it"):
        api.resume(own_run, [override])
    assert (own_run / "config.toml").read_bytes() == (trained / "config.toml").read_bytes()


def test_a_run_goes_on_where_its_images_have_moved_to(own_folder: Path, tiny: Make, tmp_path: Path) -> None:
    run = api.train(tiny(f"data.root={own_folder}"), tmp_path / "run")
    moved = own_folder.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="no such folder"):
        api.resume(run, ["train.epochs=3"])
    api.resume(run, ["train.epochs=3", f"data.root={moved}"])
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]
    assert checkpoint_of(run)["config"]["data"]["root"] == str(moved)


def test_changed_data_is_noticed(own_folder: Path, tiny: Make, tmp_path: Path, signal_at: SignalAt) -> None:
    run = tmp_path / "run"
    signal_at.arm(10)
    with pytest.raises(Stopped):
        api.train(tiny(f"data.root={own_folder}"), run)
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
            api.resume(run)
        shutil.rmtree(images)
        (own_folder / "kept").rename(images)
    api.resume(run)


@pytest.fixture(scope="module")
def _within_epoch_1(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        SignalAt(patch).arm(9)
        with pytest.raises(Stopped):
            api.train(tiny(), run)
    assert (checkpoint_of(run)["epoch"], checkpoint_of(run)["step"]) in {(0, 1), (0, 2)}
    return run


@pytest.fixture
def within_epoch_1(_within_epoch_1: Path, tmp_path: Path) -> Path:
    """A run of the configuration of `trained` that was stopped between two steps of its first epoch."""
    return Path(shutil.copytree(_within_epoch_1, tmp_path / "run"))


@pytest.fixture(scope="module")
def one_more_epoch(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trained`, continued by an epoch."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("more") / "run"))
    api.resume(run, ["train.epochs=3"])
    return run


def _damage(path: Path, kind: str) -> None:
    labels = np.load(path)
    if kind == "gone":
        path.unlink()
    elif kind == "a folder":
        path.unlink()
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "header of two lines":  # numpy raises tokenize.TokenError
        path.write_bytes(b"\x93NUMPY\x01\x00\x04\x00{(\n\n")
    elif kind == "garbage":
        path.write_bytes(b"garbage")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: -labels.nbytes // 2])
    elif kind == "header alone":
        path.write_bytes(path.read_bytes()[: -labels.nbytes])
    elif kind == "other shape":
        np.save(path, labels[:, :3])
    else:
        np.save(path, labels.astype(np.uint16))


DAMAGE = [
    "gone",
    "a folder",
    "empty",
    "garbage",
    "header of two lines",
    "truncated",
    "header alone",
    "other shape",
    "other type",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_step_is_not_taken_without_its_pseudo_labels(within_epoch_1: Path, trained: Path, damage: str) -> None:
    file = within_epoch_1 / "pseudo_labels.npy"
    right, saved = file.read_bytes(), (within_epoch_1 / "checkpoint.pt").read_bytes()
    _damage(file, damage)
    found = file.read_bytes() if file.is_file() else None
    for _ in range(2):  # a first try must not make a file that the second takes for the right one
        with pytest.raises(InputError, match=rf"{file}: is needed to resume within an epoch, but .* or train anew$"):
            api.resume(within_epoch_1)
        assert (file.read_bytes() if file.is_file() else None) == found
        assert file.exists() == (damage != "gone")
        assert (within_epoch_1 / "checkpoint.pt").read_bytes() == saved
        assert RunRecord(within_epoch_1).read()["status"] == "failed"
    if damage == "a folder":
        file.rmdir()
    file.write_bytes(right)
    api.resume(within_epoch_1)
    assert_equal_runs(within_epoch_1, trained)


@pytest.mark.parametrize("damage", [kind for kind in DAMAGE if kind != "a folder"])
def test_between_epochs_the_pseudo_labels_do_not_matter(own_run: Path, one_more_epoch: Path, damage: str) -> None:
    _damage(own_run / "pseudo_labels.npy", damage)
    api.resume(own_run, ["train.epochs=3"])
    assert_equal_runs(own_run, one_more_epoch)
    assert (own_run / "pseudo_labels.npy").read_bytes() == (one_more_epoch / "pseudo_labels.npy").read_bytes()


@pytest.mark.parametrize("text", ["garbage", None], ids=["garbage", "edited"])
def test_settings_come_from_the_checkpoint(own_run: Path, one_more_epoch: Path, tiny: Make, text: str | None) -> None:
    """Of a run with a checkpoint, config.toml is for reading: an edit changes nothing."""
    edited = tiny("train.lr=1", "cluster.k=4", "seed=8", "loss.temperature=0.9", "data.root=/nowhere")
    (own_run / "config.toml").write_text(text or to_toml(edited), "utf-8")
    api.resume(own_run, ["train.epochs=3"])
    assert_equal_runs(own_run, one_more_epoch)


def test_fewer_epochs_than_were_reached_are_refused(own_run: Path, within_epoch_1: Path) -> None:
    behind, begun = "has 2 epochs behind it", "is in epoch 1"
    for run, epochs, reached in ((own_run, 1, behind), (own_run, 0, behind), (within_epoch_1, 0, begun)):
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(InputError, match=rf"train\.epochs = {epochs}: .* {reached}; ask for more"):
            api.resume(run, [f"train.epochs={epochs}"])
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    api.resume(within_epoch_1, ["train.epochs=1"])  # those that were begun are not fewer
    assert [line["epoch"] for line in read_metrics(within_epoch_1)] == [1]
    assert RunRecord(within_epoch_1).read()["status"] == "finished"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_after_the_last_step_says_that_nothing_is_left(
    cli: Callable[..., tuple[int, str, str]],
    tiny: Make,
    trained: Path,
    tmp_path: Path,
    signal_at: SignalAt,
    signum: signal.Signals,
    status: int,
) -> None:
    config, run = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(to_toml(tiny()), "utf-8")
    api.train(tiny(), tmp_path / "counted")
    signal_at.arm(signal_at.seen, signum)
    found, stdout, stderr = cli("train", "--config", config, "--out", run)
    assert (found, stdout) == (status, "")
    assert stderr.splitlines()[-1] == "picie: stopped after the last epoch; nothing is left to do"
    assert RunRecord(run).read()["status"] == "finished"
    assert_equal_runs(run, trained)


def test_what_is_no_run_is_not_resumed(own_run: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=r"holds no run \(no config\.toml\)"):
            api.resume(folder)
    (own_run / "checkpoint.pt").write_bytes(b"garbage")
    with pytest.raises(
        InputError,
        match=r"checkpoint\.pt: is not a PyTorch file, .*\(nothing was run\); compare its size .* or fetch it again$",
    ):
        api.resume(own_run)


def _signalled(at: int, signum: int, arguments: list[str]) -> None:
    """The program `picie`, with a signal to itself at a call of `Engine.to_images`."""
    plain, seen = Engine.to_images, 0

    def counted(engine: Engine, *what: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signum)
        return plain(engine, *what)

    Engine.to_images = counted  # type: ignore[method-assign]
    sys.exit(main(arguments))


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
    arguments = ["train", "--config", str(config), "--out", str(run), "run.keep_gb=0"]
    with forked(tmp_path, _signalled, at, int(signum), arguments) as process:
        found, _, errors = process.wait()
    assert found == status, errors
    assert "Traceback" not in errors
    if signum == signal.SIGKILL:
        assert checkpoint_of(run)["epoch"] == 1
    else:
        last = errors.splitlines()[-1]
        assert re.fullmatch(rf"picie: stopped .*; go on with: picie train --resume {run}", last)
        assert RunRecord(run).read()["status"] == "stopped"
    assert not list(run.glob(".*"))
    api.resume(run)
    assert_equal_runs(run, trained)
