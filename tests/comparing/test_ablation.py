"""`picie ablate`: the plan, what is done again and what is not, and what happens when a run goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY
from tests.equal_runs import assert_equal_runs

from picie import Config
from picie.comparing import ablation
from picie.comparing.ablation_plan import Grid, folder_name, plan, variants
from picie.comparing.run_records import Run
from picie.config import load
from picie.errors import InputError, TrainingError
from picie.training import api
from picie.training.trainer import Trainer

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]
QUICK = tuple(option for option in TINY if not option.startswith("train.epochs="))


@pytest.fixture
def arguments(labelled_folder: Path, tmp_path: Path) -> list[object]:
    """Of `picie ablate`: two settings, two seeds, one epoch."""
    return [
        labelled_folder,
        *QUICK,
        "--epochs",
        1,
        "--vary",
        "loss.temperature=0.3|1.0",
        "--seeds",
        2,
        "--out",
        tmp_path / "out",
    ]


def test_values_make_a_matrix() -> None:
    found = variants(None, ["views.invariance=[]|brightness,blur", "views.equivariance=hflip|", "cluster.k=3"])
    assert list(found) == [
        "invariance=none, equivariance=hflip, k=3",
        "invariance=none, equivariance=default, k=3",
        "invariance=brightness,blur, equivariance=hflip, k=3",
        "invariance=brightness,blur, equivariance=default, k=3",
    ]
    jobs = plan(Grid(found, 2), Path("out"))
    assert len(jobs) == 8
    assert jobs[0].config.views.invariance == ()
    assert [spec["name"] for spec in jobs[2].config.views.invariance] == ["brightness", "blur"]
    assert jobs[1].config.views.equivariance == Config().views.equivariance
    assert [job.config.seed for job in jobs] == [0] * 4 + [1] * 4
    assert jobs[4].folder == Path("out/invariance=none-equivariance=hflip-k=3/seed-1")


def test_options_of_one_name_keep_their_sections() -> None:
    assert list(variants(None, ["train.lr=1e-4", "mdc.lr=0.1"])) == ["train.lr=1e-4, mdc.lr=0.1"]


def test_a_recipe_and_values_are_multiplied_and_lie_over_all_else(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('["plain"]\n["published"]\npreset = "reference"\ntrain.epochs = 3\n', "utf-8")
    jobs = plan(Grid(variants(str(file), ["cluster.k=5|6"]), 1), tmp_path, ["train.epochs=7", "seed=4", "loss.within=0.5"])
    assert [job.setting for job in jobs] == ["plain, k=5", "plain, k=6", "published, k=5", "published, k=6"]
    expected = load("reference", None, ["train.epochs=3", "seed=4", "loss.within=0.5", "cluster.k=6"])
    assert jobs[3].config == expected
    assert jobs[0].config == load(None, None, ["train.epochs=7", "seed=4", "loss.within=0.5", "cluster.k=5"])


def test_folders_are_plain_and_never_shared() -> None:
    assert folder_name("not trained, one start") == "not-trained-one-start"
    spec = 'invariance=[{name="blur", sigma=[1.0, 4.0]}]'
    assert folder_name(spec).startswith("invariance=-name=-blur-sigma=-1.0-4.0-")
    assert folder_name(spec) != folder_name(spec.replace('"', "'"))
    assert len(folder_name("x" * 300)) < 100
    assert folder_name("../..") == folder_name("../..").strip("./")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "nothing to vary"),
        (["--vary", "loss.temperature"], "not an option with values"),
        (["--vary", "loss.temprature=0.1|1"], "did you mean 'loss.temperature'"),
        (["--vary", "loss.temperature=0.1|0"], "setting 'temperature=0': loss.temperature = 0: must be greater than 0"),
        (["--vary", "loss.temperature=0.3|0.30"], "are the same"),
        (["--vary", "seed=0|1"], "are the same except for seed and [run]"),
        (["--vary", "loss.temperature=1|2", "--vary", "loss.temperature=3"], "given twice"),
        (["--vary", "views.invariance=blur|blurr"], "did you mean 'blur'"),
        (["--vary", "views.invariance=hflip"], "hflip"),
        (["--vary", "cluster.k=3|60000"], "60000 clusters cannot be made"),
        (["--vary", "model.backbone=test_efficientnet|nonesuch"], "nonesuch"),
        (["--recipe", "base-line"], "did you mean 'baseline'"),
        (["--recipe", "baseline", "--against", "picy"], "no setting 'picy'"),
        (["--recipe", "baseline", "data.name=scenes", "--seeds", "0"], "seeds"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_started(
    labelled_folder: Path, tmp_path: Path, refused: Refused, options: list[str], expected: str
) -> None:
    assert expected in refused("ablate", labelled_folder, *QUICK, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_that_is_missing_is_told(tmp_path: Path, refused: Refused) -> None:
    assert "DATA is missing" in refused("ablate", "--recipe", "baseline", "--out", tmp_path / "out")


def test_every_setting_with_every_seed_once(
    arguments: list[object], tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    status, told, log = cli("ablate", *arguments)
    assert status == 0, log
    assert "4 runs: 2 settings x 2 seeds; 4 to do" in log
    runs = sorted(path.parent.relative_to(out).as_posix() for path in out.rglob("config.toml"))
    assert runs == [f"temperature={t}/seed-{s}" for t in ("0.3", "1.0") for s in (0, 1)]
    for text in ("temperature=0.3", "temperature=1.0", "not significant", "mIoU %", str(out / "comparison.png")):
        assert text in told or "same score" in told
    content = json.loads((out / "comparison.json").read_text("utf-8"))
    assert content["differs"] == {"loss.temperature": [0.3, 1.0]}
    assert [group["seeds"] for group in content["groups"]] == [[0, 1], [0, 1]]

    def forbidden(*_: Any) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(api, "train", forbidden)
        patch.setattr(api, "resume", forbidden)
        status, again, log = cli("ablate", *arguments)
    assert (status, again) == (0, told)
    assert "0 to do" in log
    more = [3 if a == 2 else a for a in arguments]
    assert "6 runs: 2 settings x 3 seeds; 2 to do" in cli("ablate", *more)[2]


def test_runs_of_other_settings_are_not_mixed_in(
    arguments: list[object], trained: Path, tmp_path: Path, refused: Refused
) -> None:
    shutil.copytree(trained, tmp_path / "out" / "temperature=0.3" / "seed-0")
    arguments[arguments.index("--epochs") + 1] = 2
    message = refused("ablate", *arguments, "loss.within=0.5")
    assert "holds a run with loss.within = 1.0, not 0.5; give another --out" in message


def test_a_stopped_ablation_goes_on_by_the_same_command(
    arguments: list[object], tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = Trainer._step, [0]

    def counted(self: Any, *batch: Any) -> None:
        steps[0] += 1
        if steps[0] == 5:  # three a run: in the second
            os.kill(os.getpid(), signal.SIGINT)
        step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", counted)
        status, _, log = cli("ablate", *arguments)
    assert status == 130
    assert log.endswith("picie: stopped with 1 of 4 runs finished; run the same command to continue\n")
    assert Run.read(tmp_path / "out/temperature=1.0/seed-0").record["status"] == "stopped"
    status, _, log = cli("ablate", *arguments)
    assert status == 0
    assert "3 to do" in log
    assert "going on at epoch 1, step 3" in log
    whole = api.train(Run.read(tmp_path / "out/temperature=1.0/seed-0").config, tmp_path / "whole")
    assert_equal_runs(tmp_path / "out/temperature=1.0/seed-0", whole)


def test_a_run_killed_while_it_wrote_its_first_file_starts_over(arguments: list[object], tmp_path: Path, cli: Call) -> None:
    folder = tmp_path / "out" / "temperature=1.0" / "seed-0"
    folder.mkdir(parents=True)
    (folder / ".0123abcd.123.partial").write_text('method = "pi', "utf-8")
    arguments[arguments.index("--seeds") + 1] = 1
    status, _, log = cli("ablate", *arguments)
    assert status == 0, log
    assert Run.read(folder).finished
    assert not list(folder.glob(".*"))


def test_a_failing_run_does_not_end_the_others(
    arguments: list[object], tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, out = api.train, tmp_path / "out"
    errors = iter([TrainingError("the loss is not finite"), ZeroDivisionError("oh no")])

    def sometimes(config: Config, folder: Path) -> Path:
        if config.loss.temperature == 1.0:
            raise next(errors)
        return train(config, folder)

    with monkeypatch.context() as patch:
        patch.setattr(api, "train", sometimes)
        status, told, log = cli("ablate", *arguments, "--against", "temperature=1.0")
    assert status == 1
    last = log.splitlines()[-1]
    assert "2 of 4 runs failed; run the same command to try them again" in last
    assert f"{out / 'temperature=1.0/seed-0'} (the loss is not finite)" in last
    assert f"{out / 'temperature=1.0/seed-1'} (ZeroDivisionError: oh no)" in last
    assert "sometimes" in (out / "temperature=1.0/seed-1.log").read_text("utf-8")  # where it came from
    assert "there is only one setting, so nothing is compared" in told
    assert cli("ablate", *arguments)[0] == 0


@pytest.mark.long  # each run imports torch
def test_runs_side_by_side_are_the_same_and_may_fail(
    labelled_folder: Path, tmp_path: Path, cli: Call, tiny: Callable[..., Config]
) -> None:
    out = tmp_path / "out"
    blocked = out / "temperature=1.0" / "seed-0"
    blocked.mkdir(parents=True)
    (blocked / "notes.txt").write_text("not a run", "utf-8")
    vary = ("--vary", "loss.temperature=0.3|1.0", "--seeds", 1)
    status, _, log = cli("ablate", labelled_folder, *TINY, *vary, "--jobs", 2, "--out", out)
    assert status == 1
    assert f"1 of 2 runs failed; run the same command to try them again: {blocked} (--out {blocked}: exists already" in log
    assert_equal_runs(out / "temperature=0.3" / "seed-0", api.train(tiny(), tmp_path / "alone"))
    assert "epoch 2/2" in (out / "temperature=0.3" / "seed-0.log").read_text("utf-8")


def test_processes_are_asked_to_stop_and_nothing_else_is_started(
    labelled_folder: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    killed: list[bool] = []

    class Endless:
        """A run that ends when it is asked to."""

        returncode: int | None = None

        def poll(self) -> int | None:
            if not killed:
                killed.append(True)
                os.kill(os.getpid(), signal.SIGTERM)  # to this process alone
            return self.returncode

        def send_signal(self, signum: int) -> None:
            sent.append(signum)
            self.returncode = 128 + signum

        def terminate(self) -> None:
            raise AssertionError("it has ended")

    started: list[Path] = []
    monkeypatch.setattr(ablation, "_start", lambda job, _: started.append(job.folder) or Endless())
    vary = ("--vary", "loss.temperature=0.3|1.0", "--seeds", 3)
    status, _, log = cli("ablate", labelled_folder, *TINY, *vary, "--jobs", 2, "--out", tmp_path / "out")
    assert status == 128 + signal.SIGTERM
    assert len(started) == 2
    assert set(sent) == {signal.SIGTERM}
    assert "stopped with 0 of 6 runs finished; run the same command to continue" in log


def test_a_plan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would share a folder"):
        plan(Grid({"a b": [{}], "a, b": [{"method": "mdc"}]}, 1), tmp_path)
