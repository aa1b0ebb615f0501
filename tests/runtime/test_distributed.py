"""Several processes give the result of one, and all of them learn of an error in any."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SMOOTHED, TINY, checkpoint_of, write_labelled
from tests.forked import SECONDS, forked
from tests.runtime import distributed_worker
from tests.runtime.distributed_worker import LAYERS, SPLITS, batches, passed, start
from tests.runtime.processes import together, torchrun

from picie.cli.main import main
from picie.runtime import distributed, failures
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import api
from picie.training.optimization import Optimizer

# Where a gradient is only rounding, Adam still takes full steps, so the learning rate is small; fp32 because it
# does not depend on the batch.
FIXED = (*(o for o in TINY if not o.startswith("train.lr")), "train.lr=1e-5", "train.precision=fp32", "run.progress=false")
ONE_STEP = ("train.epochs=1", "train.batch_size=9", "loss.class_weights=inverse")
# How far apart BatchNorm's running means may be, in standard deviations of their channel. Adam moves a weight by about the
# learning rate whatever the size of its gradient, so where a gradient is only rounding, each of the 8 steps may put a weight
# 2e-5 further apart. A layer's normalised output has a standard deviation of about 1, so its bias alone may move the next
# mean by 1.6e-4; the bound is that of two layers (measured: 1.9e-4).
MEAN_DRIFT = 2 * 8 * 2e-5
RUNS = {
    "default": (),
    "reference": ("--preset", "reference"),
    "mdc": (*ONE_STEP, "--method", "mdc", "run.cache_gb=0", "evaluate.crop=false"),
    "two-heads": (*ONE_STEP, "cluster.over_k=5", "loss.mse=true", "cluster.init_points=100", "cluster.init_batches=1"),
    "smoothed": (*ONE_STEP, *SMOOTHED),
    "one-image-batches": (
        "train.epochs=1",
        "cluster.refit=0",  # chooses the best of several starts; rounding would decide between equal ones
        "train.batch_size=1",
        "cluster.batch_size=1",
        "cluster.init_batches=2",  # further batches would move centroids by the points of one process each
        "views.size=64",  # at 32, BatchNorm has one cell of one image
        "views.equivariance=crop,hflip,vflip,rot90",
        "views.invariance=cast,gamma,blur,contrast,hue,greyscale",
    ),
}
REFUSED = {
    "taken": ("the run's folder", "exists already; give another folder"),
    "too-many-clusters": ("cluster.k = 4000", "cannot be made of"),
    "bad-image": ("rank 1: ", "zzz.jpg", "or set data.on_bad_image=skip"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 9 + 3 labelled images and an unreadable one in each split; batches of two leave one image over."""
    folder = write_labelled(tmp_path_factory.mktemp("data") / "tiny", 9, 3)
    for split in ("train", "val"):
        (folder / "images" / split / "zzz.jpg").write_bytes(b"no picture")
        (folder / "labels" / split / "zzz.png").write_bytes((folder / "labels" / "train" / "000.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run all commands in one and in two processes; returns the folders of runs and output of each."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    half = _stopped_within_epoch_2(data, two / "half")
    commands: dict[str, list[str]] = {"half": ["train", "--resume", str(half)]}
    for name, options in RUNS.items():
        assert main(command(data, one / name, *options)) == 0
        commands[name] = command(data, two / name, *options)
    commands["taken"] = command(data, two / "default")
    commands["too-many-clusters"] = command(data, two / "none", "cluster.k=4000")
    commands["bad-image"] = command(data, two / "none", "data.on_bad_image=error")
    commands["list"] = ["list", "presets"]
    (two / "commands.json").write_text(json.dumps(commands))
    ended = together(two, distributed_worker.run, two)
    assert [status for status, _ in ended] == [0, 0], ended
    return one, two


def command(data: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of a tiny run; `options` override those of `FIXED`."""
    given = {option.partition("=")[0] for option in options}
    return ["train", str(data), *(o for o in FIXED if o.partition("=")[0] not in given), *options, "--out", str(out)]


def _stopped_within_epoch_2(data: Path, out: Path) -> Path:
    """Train "default" in one process and stop it in the middle of its second epoch."""
    plain, steps = Optimizer.step, 0

    def stopping(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6:  # of 2 x 4
            signal.raise_signal(signal.SIGTERM)
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Optimizer, "step", stopping)
        assert main(command(data, out)) == 128 + signal.SIGTERM
    state = checkpoint_of(out)
    assert (state["epoch"], state["step"]) == (1, 2)
    return out


def assert_like(run: Path, expected: Path) -> None:
    """Assert that two runs are equal up to rounding."""
    lines = [read_metrics(folder) for folder in (run, expected)]
    assert [line["epoch"] for line in lines[0]] == [line["epoch"] for line in lines[1]]
    for ours, theirs in zip(*lines, strict=True):
        assert list(ours) == list(theirs)
        for key in set(ours) - {"seconds", "peak_memory_mb"}:
            tolerance = {"abs": 0.2} if key in ("accuracy", "miou") else {"rel": 1e-3}
            assert ours[key] == (ours[key] if isinstance(ours[key], str) else pytest.approx(theirs[key], **tolerance)), key
    ours, theirs = checkpoint_of(run), checkpoint_of(expected)
    assert ours["images"] == theirs["images"]
    without_ties = [{key: value for key, value in o["matching"].items() if key != "assignment"} for o in (ours, theirs)]
    assert without_ties[0] == without_ties[1]  # single pixels decide between two equal assignments
    for name in ("centroids", "over_centroids", "prototypes"):
        if name in theirs["method"]:
            torch.testing.assert_close(ours["method"][name], theirs["method"][name], rtol=0, atol=2e-3)
    for name, mean in theirs["method"].items():
        if name.endswith("running_mean"):  # BatchNorm's statistics
            variance_name = name.replace("running_mean", "running_var")
            variance = theirs["method"][variance_name]
            assert float(((ours["method"][name] - mean).abs() / variance.sqrt()).max()) < MEAN_DRIFT, name
            torch.testing.assert_close(ours["method"][variance_name], variance, rtol=2e-3, atol=0)  # 1.2e-3 was measured
    labels = [np.load(folder / "pseudo_labels.npy") for folder in (run, expected)]
    assert (labels[0] != labels[1]).mean() < 1e-3


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_result_of_one(runs: tuple[Path, Path], name: str) -> None:
    one, two = (folder / name for folder in runs)
    assert_like(two, one)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    records = [RunRecord(folder).read() for folder in (two, one)]
    assert [record["engine"]["processes"] for record in records] == [2, 1]
    assert [(r["status"], r["images"], r["skipped_images"]) for r in records] == [("finished", 9, 1)] * 2


@pytest.mark.parametrize("name", [name for name, options in RUNS.items() if ONE_STEP[1] in options])
def test_two_processes_take_the_step_of_one(runs: tuple[Path, Path], name: str) -> None:
    """Compare the mean of gradients in the optimiser after a single step; later steps amplify rounding."""
    saved = [checkpoint_of(folder / name)["optimizers"] for folder in runs]
    assert len(saved[0]) == len(saved[1]) == (2 if name == "mdc" else 1)
    for ours, theirs in zip(*saved, strict=True):
        a, b = (torch.cat([s["exp_avg"].flatten() for s in o["state"].values()]) for o in (ours, theirs))
        assert float((a - b).norm() / b.norm()) < 1e-2


def test_two_processes_resume_the_run_of_one(runs: tuple[Path, Path]) -> None:
    one, two = runs
    assert_like(two / "half", one / "default")


def test_only_the_main_process_prints(runs: tuple[Path, Path]) -> None:
    _, two = runs
    statuses = [json.loads((two / f"status.{rank}.json").read_text()) for rank in (0, 1)]
    assert statuses[0] == statuses[1]
    for name in ("half", *RUNS):
        assert statuses[0][name] == 0
        assert (two / f"{name}.0.out").read_text() == f"{two / name}\n"
        messages = (two / f"{name}.0.err").read_text()
        epochs = ["2"] if name == "half" else ["1"] if "train.epochs=1" in RUNS[name] else ["1", "2"]
        assert re.findall(r"^epoch (\d)/", messages, re.MULTILINE) == epochs
        assert messages.count("skipped: ") == 2  # a training image, and an image to score that the other process found
        assert (two / f"{name}.1.out").read_text() == (two / f"{name}.1.err").read_text() == ""


def test_an_error_is_printed_once(runs: tuple[Path, Path]) -> None:
    _, two = runs
    statuses = json.loads((two / "status.0.json").read_text())
    for name, parts in REFUSED.items():
        messages = (two / f"{name}.0.err").read_text()
        assert statuses[name] == 2, messages
        assert messages.count("picie: error: ") + messages.count("picie: rank 1: error: ") == 1, messages
        assert all(part in messages for part in parts[1:]), messages
        assert (two / f"{name}.1.err").read_text() == ""
    assert not (two / "none").exists()


@pytest.mark.parametrize("name", LAYERS)
def test_batchnorm_normalises_by_the_whole_batch(runs: tuple[Path, Path], name: str) -> None:
    found = [torch.load(runs[1] / f"layers.{rank}.pt")[name] for rank in (0, 1)]
    layer = start(LAYERS[name]())
    for i, ((x, slope), sizes) in enumerate(zip(batches(name), SPLITS, strict=True)):
        whole = passed(layer, x, slope)
        parts = [f["passes"][i] for f in found if f["passes"][i]]
        for key in ("y", "dx"):
            torch.testing.assert_close(torch.cat([part[key] for part in parts]), whole[key], rtol=1e-3, atol=1e-4)
            assert [len(part[key]) for part in parts] == [size for size in sizes if size]
        for key in set(whole) - {"y", "dx"}:
            torch.testing.assert_close(sum(part[key] for part in parts), whole[key], rtol=1e-3, atol=1e-4)
    for f in found:
        for key, value in layer.state_dict().items():
            torch.testing.assert_close(f["state"][key], value)
    layer.eval()
    for f in found:
        torch.testing.assert_close(f["evaluated"], layer(batches(name)[0][0]), rtol=1e-3, atol=1e-4)


SCRIPT = """
import os, signal, sys, time
from picie.cli.main import main
from picie.runtime.interrupts import StopRequest
from picie.training.optimization import Optimizer
plain, begin, steps, stop = Optimizer.step, StopRequest.__init__, 0, None
def remember(request):
    global stop
    begin(request)
    stop = request
def take(*arguments):
    global steps
    steps += 1
    if steps == 6 and os.environ["RANK"] == "1":  # of 2 x 4
        os.kill(os.{whom}(), signal.{signum})
        latest = time.monotonic() + 60
        while stop.signum is None:  # until the signal is here, be it through torchrun
            assert time.monotonic() < latest, "no signal came"
            time.sleep(0.01)
    return plain(*arguments)
StopRequest.__init__, Optimizer.step = remember, take
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long  # three processes import torch
def test_a_killed_process_ends_the_run_with_a_message_and_it_can_be_resumed(
    runs: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT.format(whom="getpid", signum="SIGKILL"))
    status, messages = torchrun(tmp_path / "logs", script, *command(data, run))
    assert status != 0
    assert not any("Traceback" in text for text in messages), messages
    assert messages[1] == ""
    assert re.fullmatch(
        rf"picie: error: rank 0: another process of this run died or cannot be reached \(.*\); the last checkpoint is kept; go "
        rf"on with: picie train --resume {run}, in any number of processes",
        messages[0].splitlines()[-1],
    )
    assert messages[0].count("picie: error: ") == 1
    assert RunRecord(run).read()["status"] == "failed"
    assert not list(run.glob(".*"))
    assert checkpoint_of(run)["epoch"] == 1
    api.resume(run)
    assert_like(run, runs[0] / "default")


@pytest.mark.long  # three processes import torch
def test_all_processes_stop_after_the_same_step(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    """As by Ctrl-C: torchrun forwards the signal to each of its processes."""
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT.format(whom="getppid", signum="SIGTERM"))
    status, messages = torchrun(tmp_path / "logs", script, *command(data, run))
    assert status != 0
    assert messages[1] == ""
    assert messages[0].splitlines()[-1] == f"picie: stopped in epoch 2; go on with: picie train --resume {run}"
    assert RunRecord(run).read()["status"] == "stopped"
    state = checkpoint_of(run)
    assert (state["epoch"], state["step"]) == (1, 2)
    api.resume(run)
    assert_like(run, runs[0] / "default")


class _Store:
    def add(self, key: str, n: int) -> int:
        return n


def _asked_to_stop(exchanges: int, seconds: float) -> None:
    failures._TIMEOUT = 0.5
    signal.signal(signal.SIGTERM, lambda *_: None)
    team = failures._Group(_Store(), 3)
    watch = failures._Watch(team)
    team.exchanges = exchanges
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(seconds)
    watch.close()


@pytest.mark.parametrize(("exchanges", "status"), [(5, 1), (4, 0)], ids=["waiting", "at work"])
def test_a_stuck_process_ends_when_asked_to_stop(exchanges: int, status: int, tmp_path: Path) -> None:
    with forked(tmp_path, _asked_to_stop, exchanges, SECONDS if status else 1) as process:
        found, _, errors = process.wait()
    assert found == status
    assert errors.count("\n") == status
    assert ("rank 3: was asked to stop but is still waiting for another process" in errors) == bool(status)


def test_single_process_commands_refuse_several(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for arguments in (
        ["evaluate", tmp_path],
        ["ablate", "--out", tmp_path],
        ["demo"],
        ["list", "presets"],
        ["data", "check", "x"],
    ):
        message = refused(*arguments)
        assert message == f"picie {arguments[0]} runs in one process; start it without torchrun"


def test_processes_that_cannot_connect_fail_clearly(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    message = refused(*command(data, tmp_path / "run"))
    assert "the 2 processes of this run (WORLD_SIZE) cannot connect to each other" in message
    assert "start them with torchrun, or unset WORLD_SIZE for one" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_shards_cover_all_items(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items = np.arange(n)
    assert np.array_equal(distributed.shard(items), items)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(distributed, "_joined", 3)
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(distributed.shard(items))
    assert np.array_equal(np.concatenate(parts), items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_single_process_does_not_communicate() -> None:
    x = torch.arange(3.0)
    assert distributed.all_reduce_sum(x) is x
    assert torch.equal(distributed.all_gather(x), x[None])
    assert distributed.all_gather_object(x) == [x]
    assert distributed.gather_object(7) == [7]
    assert distributed.run_on_main(lambda: 7) == 7
    assert (distributed.world_size(), distributed.rank(), distributed.is_main(), list(distributed.local_ranks())) == (
        1,
        0,
        True,
        [0],
    )
