"""Ablations over several tasks: folds by name, files of tasks, and means over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tests.conftest import TINY

from picie.comparing.ablation_plan import Grid, plan, variants
from picie.comparing.tasks import folds_of, plan_tasks, read_tasks
from picie.config import Config, from_dict, load
from picie.data import open_dataset
from picie.errors import InputError


@pytest.fixture
def sequences(own_folder: Path) -> Path:
    """The labelled folder with its images renamed to those of three videos, a1, a2 and b[."""
    names = iter(["a1-0", "a1-1", "a2-0", "a2-1", "b[-0", "b[-1", "a1-2", "b[-2"])
    for split in ("train", "val"):
        for image in sorted((own_folder / "images" / split).iterdir()):
            name = next(names)
            label = own_folder / "labels" / split / f"{image.stem}.png"
            image.rename(image.with_stem(name))
            label.rename(label.with_stem(name))
    return own_folder


def test_folds_hold_out_each_group_once(sequences: Path) -> None:
    folds = folds_of(str(sequences), 2)
    assert list(folds) == ["a1", "a2", "b["]
    scored = []
    for name, options in folds.items():
        config = load(None, None, [{"data": {"root": str(sequences)}}, options])
        train = open_dataset(config.data, config.data.train_split, "train")
        test = open_dataset(config.data, config.evaluate.split, "scored")
        assert all(Path(test.name(i)).name.startswith(name) for i in range(len(test)))
        assert not any(Path(train.name(i)).name.startswith(name) for i in range(len(train)))
        assert len(train) + len(test) == 8
        scored += [test.name(i) for i in range(len(test))]
    assert len(set(scored)) == 8


@pytest.mark.parametrize(("length", "part"), [(4, "too many|different starts"), (0, "at least 1|one fold")])
def test_folds_that_cannot_be_are_refused(sequences: Path, length: int, part: str) -> None:
    if length == 4:
        for i in range(30):
            source = next((sequences / "images" / "train").glob("a1-0*"))
            (sequences / "images" / "train" / f"{i:03d}{source.suffix}").write_bytes(source.read_bytes())
    with pytest.raises(InputError, match=part):
        folds_of(str(sequences), length)


def test_folds_need_labels(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="labels"):
        folds_of(str(tmp_path), 1)
    with pytest.raises(InputError, match="DATA is missing"):
        folds_of(None, 1)


def test_a_file_of_tasks_may_have_folds(sequences: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.toml"
    root = json.dumps(str(sequences))
    file.write_text(f'["as it is"]\ncluster.k = 5\n[videos]\nfolds = 2\ndata.root = {root}\n["other seed"]\nseed = 3\n')
    tasks = read_tasks(file, from_dict({}))
    assert list(tasks) == ["as it is", "videos a1", "videos a2", "videos b[", "other seed"]
    jobs = plan(Grid(variants(None, ["loss.temperature=0.3|1.0"]), 2, tasks), tmp_path / "out", ["train.epochs=1"])
    assert len(jobs) == 2 * 5 * 2
    assert {job.config.cluster.k for job in jobs if job.task == "as it is"} == {5}
    assert [job.config.seed for job in jobs if job.task == "other seed"] == [3, 3, 4, 4]
    assert jobs[2].task == "videos a1" and jobs[2].config.data.held_out == ("a1*",)
    assert jobs[2].folder == tmp_path / "out" / "temperature=0.3" / "videos-a1" / "seed-0"


@pytest.mark.parametrize(("text", "part"), [("", "empty"), ("k = 3", "'k' is not in a table"), ("[a]\nfolds = 0", "folds = 0")])
def test_files_that_are_none_are_refused(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "tasks.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=part):
        read_tasks(file, from_dict({}))


def test_one_task_without_a_name_is_the_default() -> None:
    assert plan_tasks(None, None, Config()) == {"": ()}


def test_an_ablation_compares_means_over_folds(cli: Callable[..., Any], sequences: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    untrained = [*(option for option in TINY if not option.startswith("train.epochs")), "train.epochs=0"]
    arguments = ["ablate", sequences, *untrained, "--folds", 2, "--vary", "cluster.refit=0|1", "--seeds", 2]
    status, shown, log = cli(*arguments, "--probes", "--out", out)
    assert status == 0, log
    assert "12 runs: 2 settings x 3 tasks x 2 seeds; 12 to do" in log
    assert "mean of 3 tasks" in shown and "task a2" in shown
    found = json.loads((out / "comparison.json").read_text())
    assert list(found["tasks"]) == ["a1", "a2", "b["]
    for i, name in enumerate(["refit=0", "refit=1"]):
        by_task = [task["groups"][i]["miou"]["values"] for task in found["tasks"].values()]
        assert found["mean"][name]["miou"] == pytest.approx([fmean(values) for values in zip(*by_task, strict=True)])
        for probe in ("more_clusters", "linear_probe"):
            assert len(found["mean"][name][probe]) == 2
    assert "mIoU %, linear probe" in shown
    assert len(found["verdicts"]) == 2
    protocol = found["tasks"]["b["]["groups"][0]["protocols"][0]
    assert protocol.startswith("train+val, held out b[[]*; ")
    assert (out / "comparison-a1.png").is_file()
