"""`python -m benchmarks`, and the plot of growth."""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.benchmarks.conftest import OPTIONS

from benchmarks.settings import STEPS

ROOT = Path(__file__).parents[2]
Cli = Callable[..., tuple[int, str, str]]
SMALL = ("--backbone", "test_efficientnet", "--rounds", 1)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_without_data_pictures_are_made_up_and_everything_is_cleared_away(
    bench_cli: Cli, here: list[str], places: Path, tmp_path: Path
) -> None:
    status, out, err = bench_cli(*OPTIONS, *SMALL, "--freeze", "--images", 6, "--out", tmp_path)
    assert status == 0, err
    (file,) = tmp_path.glob("*.jsonl")
    (line,) = map(json.loads, file.read_text("utf-8").splitlines())
    assert (line["images"], line["val_images"], line["freeze"]) == (6, 1, True)
    assert line["ratios"]["naive/picie"] == line["least"]["naive"] / line["least"]["picie"]
    assert "test_efficientnet, frozen: 6 images, views 32x32 of 64x64, batch 2, K = 3" in out
    for word in ("the floor", "the naive recipe", f"picie / floor  {line['ratios']['picie/floor']:.2f}", "train: backward"):
        assert word in out
    assert str(file) in out
    assert not list(places.iterdir())


def test_each_backbone_is_a_setting_on_your_own_images(
    bench_cli: Cli, here: list[str], places: Path, tmp_path: Path, labelled_folder: Path
) -> None:
    out = tmp_path / "found.jsonl"
    options = ("--no-naive", "--backbone", "test_resnet", "--out", out)
    status, shown, err = bench_cli(labelled_folder, *OPTIONS, *SMALL, *options)
    assert status == 0, err
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [line["backbone"] for line in lines] == ["test_efficientnet", "test_resnet"]
    assert "naive" not in shown + str(lines[0]["seconds"])
    assert "_measure_naive" not in here


@pytest.mark.long  # each process imports torch
def test_in_processes_of_its_own(bench_cli: Cli, labelled_folder: Path) -> None:
    status, out, err = bench_cli("-q", labelled_folder, *OPTIONS, *SMALL, "--no-naive")
    assert status == 0, err
    assert "picie / floor" in out
    # Three steps on six pictures leave the loss near ln K, of which `-q` still warns.
    assert all("a collapse" in line for line in err.splitlines()), err


def test_growth_is_measured_shown_and_drawn(
    bench_cli: Cli, here: list[str], places: Path, tmp_path: Path, labelled_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEPS, "k", (2, 4))
    out, plot = tmp_path / "found.jsonl", tmp_path / "growth.svg"
    options = (option for option in OPTIONS if not option.startswith("cluster.k="))
    status, shown, err = bench_cli(labelled_folder, *options, *SMALL, "--grow", "k", "--out", out)
    assert status == 0, err
    assert "increasing k; test_efficientnet" in shown
    assert [json.loads(line)["k"] for line in out.read_text("utf-8").splitlines()] == [2, 4]
    monkeypatch.setattr(sys, "argv", ["growth.py", str(plot), str(out)])
    runpy.run_module("benchmarks.growth", run_name="__main__")
    assert plot.read_text("utf-8").count("test_efficientnet; cpu") == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--images", "5", "{data}"], "--images is the number of images generated without DATA"),
        (["--grow", "sise"], "did you mean 'size'"),
        (["--out", "missing/x.jsonl"], "no such folder"),
        (["{data}", "--backbone", "resnet81"], "unknown name 'resnet81'"),
        (["{data}", "-k", "3", "cluster.k=4"], "cluster.k is given twice"),
        (["{data}", "cluster.q=4"], "unknown key 'cluster.q'"),
        (["nowhere/"], "no such folder"),
        (["{data}", "--size", "0"], "views.size"),
        (["--out", "results/"], "no such folder; make it first, or give a file name with a suffix"),
        (["--out", "/proc/x.jsonl"], "cannot be written"),
        (["{data}", "--grow", "k", "-k", "5"], "--grow k sets cluster.k itself (8, 32, 128, 512)"),
        (["{data}", "--grow", "size", "views.size=64"], "--grow size sets views.size itself"),
        (["{data}", "model.backbone=resnet18"], "use --backbone"),
        (["{data}", "method=mdc"], "--no-naive"),
    ],
)
def test_bad_input_is_one_line(
    refused_bench: Callable[..., str], here: list[str], places: Path, labelled_folder: Path, arguments: list[str], part: str
) -> None:
    assert part in refused_bench(*(a.format(data=labelled_folder) for a in arguments))
    assert not list(places.iterdir())
