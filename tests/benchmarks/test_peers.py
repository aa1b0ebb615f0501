"""Other libraries' k-means on the same features, beside picie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.benchmarks.conftest import OPTIONS

from benchmarks import peer_recipes, peers
from picie.config import load

SMALL = ("model.backbone=test_efficientnet", "cluster.init_points=2000", "cluster.k=3")


@pytest.fixture
def found(
    labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[dict[str, Any], str]:
    """The record of a comparison in this process, and what it printed."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(peers, "in_process", call)
    out = tmp_path / "record.jsonl"
    options = [option for option in OPTIONS if not option.startswith("cluster.k")]
    arguments = [str(labelled_folder), "-k", "3", *SMALL, *options, "--steps", "1", "--out", str(out)]
    assert peers.main(arguments) == 0, capfd.readouterr().err
    (line,) = out.read_text("utf-8").splitlines()
    return json.loads(line), capfd.readouterr().out


def test_contestants_are_timed_and_scored_alike(found: tuple[dict[str, Any], str]) -> None:
    record, shown = found
    contestants = record["contestants"]
    assert list(contestants) == [peers.UNTRAINED, "timm + scikit-learn MiniBatchKMeans", "timm + faiss spherical k-means"]
    assert len({each["protocol"] for each in contestants.values()}) == 1
    for name, each in contestants.items():
        assert each["cpu_seconds"] > 0
        assert 0 < each["miou"] <= 100
        assert f"{name:44}" in shown
    for name in list(contestants)[1:]:
        assert set(contestants[name]["parts"]) == {"features", "k-means", "scoring"}
        assert contestants[name]["points"] == 6 * min(334, 8 * 8)  # all cells of stride 4
    assert record["steps"]["milliseconds"]["picie"] > 0
    assert "picie, two views" in shown


@pytest.mark.parametrize("name", peer_recipes.FITS)
def test_each_k_means_finds_the_clusters(name: str) -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8, dtype=np.float32)
    points = np.repeat(centres, 50, axis=0) + rng.normal(0, 0.01, (150, 8)).astype(np.float32)
    centroids = peer_recipes.FITS[name](points, 3, 0)
    assert np.sort((centroids @ centres.T).argmax(1)).tolist() == [0, 1, 2]
    assert (centroids @ centres.T).max(1) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "its cluster.k is 3, not 4"), (("cluster.k=3", "views.size=64"), "its views.size is 32, not 64")],
)
def test_a_run_of_another_setting_is_refused(
    trained: Path, labelled_folder: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    k = [] if options else ["-k", "4"]
    size = () if options else ("views.size=32",)
    arguments = [str(labelled_folder), *(k or ["-k", "3"]), *size, *(o for o in options if not o.startswith("cluster"))]
    assert peers.main([*arguments, "model.backbone=test_efficientnet", "--run", str(trained)]) == 2
    assert message in capfd.readouterr().err


def test_the_row_of_a_trained_run_is_from_its_records(trained: Path) -> None:
    config = load(None, None, ["cluster.k=3", "views.size=32", "model.backbone=test_efficientnet"])
    row = peers._trained(trained, config)
    assert row["epochs"] == 2
    assert 0 < row["miou"] <= 100
    assert row["seconds"] > 0


def test_a_run_scored_under_another_protocol_is_pointed_out(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = load(None, None, ["cluster.k=3", "views.size=32", "model.backbone=test_efficientnet"])
    row = peers._trained(trained, config)
    peers._show({peers.UNTRAINED: {**row, "cpu_seconds": 1.0}, "trained": row}, {})
    assert "protocols differ" not in capfd.readouterr().out
    peers._show({peers.UNTRAINED: {**row, "cpu_seconds": 1.0, "protocol": "another"}, "trained": row}, {})
    assert f"protocols differ: trained: {row['protocol']}" in capfd.readouterr().out
