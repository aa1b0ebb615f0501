"""Undo: each step takes back one change, and leaves what was done outside of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import checkpoint_of

from picie import Config, Segmenter
from picie.errors import InputError
from picie.inference.sampling import classify
from picie.naming.changes import Changes, change, sample_features
from picie.naming.history import last_change, undo
from picie.naming.teaching import teach_features
from picie.naming.teaching import undo as undo_teaching
from picie.runtime import checkpoint
from picie.training import api

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def six(tiny: Callable[..., Config], labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six clusters."""
    config = tiny(f"data.root={json.dumps(str(labelled_folder))}", "train.epochs=0", "cluster.k=6", "seed=2")
    return api.train(config, tmp_path_factory.mktemp("six") / "run")


@pytest.fixture
def run(six: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(six, tmp_path / "run"))


def table(run: Path) -> tuple[object, list[list[float]]]:
    """The segments that a run predicts, and its clusters."""
    segmenter = Segmenter.load(run, "cpu")
    return segmenter.segments, segmenter.classifier[0].tolist()


STEPS = (
    (Changes(names={0: ("sky", "#0000ff")}), "the name sky"),
    (Changes(merges=[((1, 2), "plant", "")]), "the merge into plant"),
    (Changes(splits={"sky": 2}), "the split of sky into 2"),
    (Changes(k=4), "4 new clusters"),
    (Changes(names={3: ("", "#00ff00")}, merge_to=3), "the colour of cluster 3, the merge to 3 segments"),
    (Changes(reset=True), "the return to the trained clusters"),
)


def test_steps_are_undone_one_by_one(run: Path) -> None:
    tables = [table(run)]
    for changes, _ in STEPS:
        change(run, changes)
        tables.append(table(run))
    assert tables[-1] == tables[0]
    for (_, words), before in zip(reversed(STEPS), reversed(tables[:-1]), strict=True):
        assert last_change(checkpoint.load(run)) == words
        assert undo(run) == words
        assert table(run) == before
    assert last_change(checkpoint.load(run)) is None
    with pytest.raises(InputError, match="--undo: the run has no change of names or clusters that could be undone"):
        undo(run)


def test_a_matching_made_since_is_kept_if_the_clusters_are_the_same(run: Path) -> None:
    first = checkpoint_of(run)["matching"]
    change(run, Changes(names={0: ("sky", "")}))
    state = checkpoint.load(run)
    state["matching"] = {**first, "protocol": "another"}
    checkpoint.save(run / "checkpoint.pt", state)
    undo(run)
    assert checkpoint_of(run)["matching"]["protocol"] == "another"
    change(run, Changes(splits={0: 2}))
    assert checkpoint_of(run)["matching"] is None
    undo(run)
    assert checkpoint_of(run)["matching"]["protocol"] == "another"


def test_only_the_latest_steps_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picie.naming.history._STEPS", 2)
    for name in ("a", "b", "c"):
        change(run, Changes(names={0: (name, "")}))
    assert [undo(run) for _ in range(2)] == ["the name c", "the name b"]
    with pytest.raises(InputError):
        undo(run)
    assert "a" in Segmenter.load(run, "cpu").names


def test_the_names_before_teaching_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picie.naming.history._STEPS", 2)
    change(run, Changes(names={0: ("sky", "")}))
    named = table(run)
    segmenter = Segmenter.load(run, "cpu")
    points = sample_features(segmenter)
    for count in range(3, 7):
        teach_features(run, points[:count], [f"class {i % 2}" for i in range(count)], points)
    copy = Path(shutil.copytree(run, run.parent / "copy"))
    assert [undo(copy), undo(copy)] == ["2 classes from 6 clicks", "2 classes from 3 clicks"]
    assert table(copy) == named
    undo_teaching(run)
    assert table(run) == named


def test_further_training_leaves_nothing_to_undo(run: Path) -> None:
    change(run, Changes(names={0: ("sky", "")}))
    api.resume(run, ["train.epochs=1"])
    assert last_change(checkpoint.load(run)) is None


def test_a_damaged_step_is_refused(run: Path) -> None:
    change(run, Changes(k=4))
    change(run, Changes(reset=True))
    state = checkpoint_of(run)
    state["undo"][1]["naming"]["segments"]["assignment"] = [0, 1]
    torch.save(state, run / "checkpoint.pt")
    with pytest.raises(InputError, match=r"undo\.1\.naming\.segments: assigns 2 clusters, not 4"):
        checkpoint.load(run)


def test_features_may_be_given(run: Path) -> None:
    points = sample_features(Segmenter.load(run, "cpu"))
    other = Path(shutil.copytree(run, run.parent / "other"))
    change(run, Changes(k=5))
    change(other, Changes(k=5), data="/not/there", sample=lambda: points)
    assert torch.equal(*(checkpoint_of(each)["naming"]["clusters"]["weight"] for each in (run, other)))
    assert len(classify(points, *checkpoint.classifier_in_use(checkpoint.load(run)))[0].unique()) > 1


def test_undo_on_the_command_line(cli: Call, run: Path, refused: Callable[..., str]) -> None:
    assert "--undo: the run has no change" in refused("name", run, "--undo")
    assert cli("name", run, "0=sky")[0] == 0
    assert "--undo: cannot be combined" in refused("name", run, "--undo", "1=sea")
    status, out, err = cli("name", run, "--undo")
    assert (status, err) == (0, "")
    assert out.startswith("undone: the name sky\n")
    assert "sky" not in out.removeprefix("undone: the name sky\n")
