"""Golden numbers: what tiny runs came to, so that a change made for speed alone is seen to change nothing else.

    python -m tests.test_golden        writes tests/golden/runs.json anew; say in docs/research/log.md why the numbers moved

Networks of other machines and versions round differently, hence the tolerances; a wrong draw, batch, label or weight moves
these numbers by far more.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SMOOTHED, TINY, checkpoint_of, write_labelled

from picie.config import load
from picie.runtime.run_record import read_metrics
from picie.training import api

FILE = Path(__file__).parent / "golden" / "runs.json"
RUNS = {
    "default": (None, SMOOTHED),
    "default, mdc, frozen": (None, ("method=mdc", "model.freeze=true", *SMOOTHED)),
    "default, two heads": (None, ("cluster.over_k=5", *SMOOTHED)),
    "reference": ("reference", ()),
    "per-cell": ("per-cell", ()),
    "mdc": ("per-cell", ("method=mdc",)),
    "two heads, mse, weights": ("per-cell", ("cluster.over_k=5", "loss.mse=true", "loss.class_weights=inverse")),
    "frozen": ("per-cell", ("model.freeze=true",)),
    "many transforms": (
        "per-cell",
        (
            'views.invariance=[{name="cast"},{name="gamma"},{name="blur",at=640},{name="contrast"},{name="hue"},{name="greyscale"}]',
            "views.equivariance=crop,hflip,vflip",
            "cluster.init_batches=1",
        ),
    ),
}
_KEPT = ("loss", "inertia", "over_inertia", "imbalance", "accuracy", "miou")


def outcome(name: str, folder: Path) -> dict[str, Any]:
    """What the run `name` comes to on the tiny labelled folder: its epochs' numbers, and the weights' sum of squares."""
    preset, overrides = RUNS[name]
    data = write_labelled(folder / "data")
    fixed = (*TINY, "train.lr=1e-5", "train.precision=fp32", "views.crop=48", f"data.root={json.dumps(str(data))}")
    run = api.train(load(preset, None, [*fixed, *overrides]), folder / "run")
    epochs = [{key: line[key] for key in _KEPT if key in line} for line in read_metrics(run)]
    weights = sum(float(w.double().square().sum()) for w in checkpoint_of(run)["method"].values() if w.is_floating_point())
    return {"epochs": epochs, "weights": weights}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_comes_to_its_golden_numbers(name: str, tmp_path: Path) -> None:
    golden, found = json.loads(FILE.read_text("utf-8"))[name], outcome(name, tmp_path)
    assert len(found["epochs"]) == len(golden["epochs"])
    for ours, theirs in zip(found["epochs"], golden["epochs"], strict=True):
        assert list(ours) == list(theirs)
        for key in ours:
            loose = key in ("accuracy", "miou")  # in percent of 2 x 3072 pixels: single ones may fall otherwise
            assert ours[key] == (pytest.approx(theirs[key], abs=0.5) if loose else pytest.approx(theirs[key], rel=1e-3)), key
    assert found["weights"] == pytest.approx(golden["weights"], rel=1e-6)


def _write() -> None:
    torch.set_num_threads(1)
    runs = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = outcome(name, Path(folder))
    FILE.write_text(json.dumps(runs, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(_write())
