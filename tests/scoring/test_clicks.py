"""Scores over draws of clicks: what is drawn, what is stated, and what they cannot see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import checkpoint_of

from picie import Config
from picie.errors import InputError
from picie.scoring import clicks as scoring
from picie.scoring.by_name import match_by_name
from picie.scoring.clicks import evaluate_clicks
from picie.training import api

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.train(tiny("train.epochs=0", "seed=2"), tmp_path_factory.mktemp("runs") / "run")


def test_draws_differ_repeat_and_state_their_protocol(run: Path) -> None:
    before = checkpoint_of(run)
    two, six = evaluate_clicks(run, clicks=[2, 6], draws=3)
    assert (two.clicks, six.clicks) == (2, 6)
    assert "val; centre square" in two.results[0].protocol
    assert "3 classes; taught by 2 clicks a class of train, draw 0, matched by name" in two.results[0].protocol
    values = [result.scores.accuracy for result in two.results]
    assert len(set(values)) > 1
    assert two.accuracy == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert six.accuracy[0] > 0.5
    again = evaluate_clicks(run, clicks=[6], draws=1)[0]
    assert np.array_equal(again.results[0].confusion, six.results[0].confusion)
    assert checkpoint_of(run)["naming"] == before["naming"] if "naming" in before else "naming" not in checkpoint_of(run)


def test_the_scored_labels_choose_nothing(
    own_folder: Path, tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = api.train(tiny("train.epochs=0", f"data.root={json.dumps(str(own_folder))}"), tmp_path / "run")
    fitted: list[np.ndarray] = []
    fit = scoring.FewLabels.fit

    def watched(self: scoring.FewLabels, *arguments: object) -> object:
        result = fit(self, *arguments)  # type: ignore[arg-type]
        fitted.append(result[0].numpy())
        return result

    monkeypatch.setattr(scoring.FewLabels, "fit", watched)
    evaluate_clicks(run, clicks=[3], draws=1)
    labels = own_folder / "labels" / "val"
    shutil.copy(labels / "100.png", labels / "101.png")  # another scored label
    evaluate_clicks(run, clicks=[3], draws=1)
    assert np.array_equal(*fitted)


def test_labels_are_needed_for_clicks(own_folder: Path, tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = api.train(tiny("train.epochs=0", f"data.root={json.dumps(str(own_folder))}"), tmp_path / "run")
    shutil.rmtree(own_folder / "labels" / "train")
    with pytest.raises(InputError, match="no labels"):
        evaluate_clicks(run, clicks=[3], draws=1)


def test_the_command_prints_and_writes_them(run: Path, tmp_path: Path, cli: Call, refused: Callable[..., str]) -> None:
    file = tmp_path / "scores.json"
    status, out, _ = cli("evaluate", run, "--clicks", 2, "--clicks", 4, "--draws", 2, "--bootstrap", 0, "--json", file)
    assert status == 0
    assert "clicks a class" in out
    rows = json.loads(file.read_text())["clicks"]
    assert [row["clicks"] for row in rows] == [2, 4]
    assert len(rows[0]["draws"]) == 2
    assert rows[0]["accuracy"][0] == pytest.approx(np.mean([draw["accuracy"] for draw in rows[0]["draws"]]), abs=1e-3)
    assert "--clicks 0: give a number from 1" in refused("evaluate", run, "--clicks", 0, "--bootstrap", 0)


def test_names_match_classes_whatever_their_capitals() -> None:
    from picie.data.base import ClassMap
    from picie.inference.segments import Segments

    segments = Segments(("Sky", "sea", "road "), ("#000000", "#111111", "#222222"), (2, 0, 1, 0), True)
    classes = ClassMap(("road", "sky"), ("#000000", "#111111"))
    matching = match_by_name(segments, classes, {"Sky": 3, "sea": 3, "road ": 3})
    assert matching.assignment.tolist() == [0, 1, -1, 1]
