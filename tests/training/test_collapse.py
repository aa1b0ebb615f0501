"""Warnings of collapsed features, and refusals of features and weights that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import checkpoint_of

from picie import Config
from picie.training import api, collapse
from picie.training.collapse import collapse_signs

Make = Callable[..., Config]
Refused = Callable[..., str]
HEALTHY = {"epoch": 2, "within": 0.8, "inertia": [0.6, 0.5], "empty": [0, 1], "imbalance": [1.2, 1.3]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"within": math.log(4) * 0.991}, ["the within-view loss is 1.374, that of guessing is ln K = 1.386"]),
        ({"within": math.log(4) * 0.989}, []),
        ({"inertia": [0.6, 9e-4]}, ["the inertia is 9.0e-04"]),
        ({"inertia": [1.1e-3, 1.1e-3]}, []),
        ({"empty": [3, 0]}, ["3 of 4 clusters are empty"]),
        ({"empty": [2, 2]}, []),
        ({"imbalance": [1.0, 3.3]}, ["one cluster holds nearly all cells (imbalance 3.30, at most K = 4)"]),
        ({"imbalance": [3.1, 3.1]}, []),
    ],
)
def test_signs_of_a_collapse(tiny: Make, change: dict[str, Any], expected: list[str]) -> None:
    assert list(collapse_signs(HEALTHY | change, tiny("cluster.k=4"))) == expected


def test_a_loss_near_ln_k_is_no_sign_at_a_high_temperature_or_with_another_loss(tiny: Make) -> None:
    line = HEALTHY | {"within": math.log(4) * 0.991}
    assert not list(collapse_signs(line, tiny("cluster.k=4", "loss.temperature=30")))
    assert not list(collapse_signs({"inertia": [0.5], "empty": [0], "imbalance": [1.0]}, tiny("cluster.k=4", "method=mdc")))


@pytest.mark.parametrize(("epochs", "advice"), [(0, "check the images and the weights"), (3, "lower train.lr")])
def test_a_collapse_is_reported_when_it_begins_and_at_the_end(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, epochs: int, advice: str
) -> None:
    monkeypatch.setattr(collapse, "collapse_signs", lambda *_: iter(["2 of 3 clusters are empty"]))
    api.train(tiny(f"train.epochs={epochs}"), tmp_path / "run")
    *early, last = [text for text in caplog.messages if text.startswith("the features")]
    assert last.startswith("the features have collapsed (2 of 3 clusters are empty), so the segments are meaningless;")
    assert advice in last
    assert len(early) == (epochs > 0)
    assert all("show signs of a collapse (2 of 3 clusters are empty)" in text for text in early)


@pytest.mark.parametrize("place", ["method", "classifier", "naming"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_whose_weights_are_not_finite_is_refused(
    refused: Refused, own_run: Path, labelled_folder: Path, tmp_path: Path, place: str, value: float
) -> None:
    state = checkpoint_of(own_run)
    if place == "naming":
        segments = {"names": ["a", "b", "c"], "colors": ["#ff0000", "#00ff00", "#0000ff"], "assignment": [0, 1, 2]}
        segments["user_defined"] = True
        clusters = {**state["classifier"], "centroids": torch.full((3, 8), value)}
        state["naming"] = {"clusters": clusters, "segments": segments, "matching": None}
        name = "centroids"
    else:
        name = next(n for n, t in state[place].items() if t.is_floating_point())
        state[place][name] = torch.full_like(state[place][name], value)  # the prototypes share the classifier's memory
    torch.save(state, own_run / "checkpoint.pt")
    for command in (
        ("evaluate", own_run),
        ("predict", own_run, labelled_folder, "--out", tmp_path / "out"),
        ("report", own_run),
        ("clusters", "suggest-k", own_run),
        ("train", "--resume", own_run, "train.epochs=3"),
    ):
        message = refused(*command)
        assert message.startswith(
            f"{own_run / 'checkpoint.pt'}: the run's weights are not finite ({name} holds NaN or infinity)"
        )
    assert not (tmp_path / "out").exists()
