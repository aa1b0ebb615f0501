"""`picie name` and `picie clusters` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import checkpoint_of

from picie import Segmenter

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def own_run(own_run: Path) -> Path:
    """A run whose three clusters are named after the three classes."""
    state = checkpoint_of(own_run)
    state["matching"]["assignment"] = [0, 1, 2]
    torch.save(state, own_run / "checkpoint.pt")
    return own_run


def test_name_shows_changes_and_writes(cli: Call, own_run: Path, tmp_path: Path) -> None:
    status, out, _ = cli("name", own_run)
    assert status == 0
    assert all(text in out for text in ("value", "red", "#dc2828", "nearest"))
    status, out, err = cli("name", own_run, "0=sky:#0000ff", "blue=:#00ff00", "--write", tmp_path / "n.toml")
    assert status == 0, err
    assert "sky" in out
    segments = Segmenter.load(own_run).segments
    assert segments.names == ("sky", "green", "blue")
    assert segments.colors == ("#0000ff", "#28b43c", "#00ff00")
    assert cli("name", own_run, "--merge", "sky,green=both", "--split", "blue:2", "-q")[0] == 2  # -q is picie's own
    assert cli("name", own_run, "--merge", "sky,green=both")[0] == 0
    assert Segmenter.load(own_run).names == ("both", "blue")
    assert cli("name", own_run, "--file", tmp_path / "n.toml")[0] == 0
    assert Segmenter.load(own_run).segments == segments
    assert cli("name", own_run, "--k", 5, "--merge-to", 4)[0] == 0
    assert (Segmenter.load(own_run).k, len(Segmenter.load(own_run).names)) == (5, 4)
    assert cli("name", own_run, "--reset")[0] == 0
    assert Segmenter.load(own_run).names == ("red", "green", "blue")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["sky"], "'sky': is not a name; write SEGMENT=NAME"),
        (["0="], "'0=': is not a name"),
        (["9=sky"], "9: no such cluster; they are 0..2"),
        (["rde=sky"], "did you mean 'red'"),
        (["sky=0"], "'sky=0': write the segment first, 0=sky"),
        (["0=sky", "0=road"], "0: is named twice"),
        (["0=sky", "1=sky"], "merge them by --merge 0,1='sky'"),
        (["0=green"], "'green': is the name of 2 segments"),
        (["0=sky:#00f"], "'#00f': is not a colour; write #rrggbb"),
        (["0=sea:blue"], "sea:blue: 'blue' is not a colour; write #rrggbb after the colon, e.g. sea:#3060c0"),
        (["--merge", "0,1=sea:blue"], "'blue' is not a colour"),
        (["--k", "1000000000"], "--k 1000000000: give a number from 2 to 4096"),
        (["--merge", "0,1"], "--merge 0,1: write SEGMENT,SEGMENT,...=NAME"),
        (["--merge", "0=sky"], "give at least two segments"),
        (["--split", "0"], "--split 0: write SEGMENT:N"),
        (["--split", "0:x"], "--split 0:x: write SEGMENT:N"),
        (["--merge-to", "3"], "the run has 3 segments; give a number from 2 to 2"),
        (["--k", "5", "0=sky"], "--k makes new clusters; look at them first"),
        (["--file", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--file", "nowhere.toml", "0=sky"], "--file replaces all segments"),
        (["--write", "nowhere/n.toml"], "--write nowhere/n.toml"),
        (["--k", "4", "--data", "nowhere"], "nowhere: no such folder"),
        (["--k", "many"], "integer"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(refused: Refused, own_run: Path, arguments: list[str], part: str) -> None:
    before = (own_run / "checkpoint.pt").read_bytes()
    assert part in refused("name", own_run, *arguments)
    assert (own_run / "checkpoint.pt").read_bytes() == before


def test_showing_a_run_writes_nothing(cli: Call, own_run: Path, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in own_run.iterdir()}
    for path in (*before, own_run):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        status, _, err = cli("name", own_run, "--write", tmp_path / "n.toml")
    finally:
        own_run.chmod(0o755)
    assert status == 0, err
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in own_run.iterdir()}
    assert (tmp_path / "n.toml").is_file()


def test_runs_that_are_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "no such run" in refused("name", tmp_path / "nowhere", "0=sky")
    assert "no such run" in refused("clusters", "suggest-k", tmp_path / "nowhere")


def test_suggest_k_prints_figures_and_one_recommendation(cli: Call, trained: Path, tmp_path: Path) -> None:
    before = (trained / "checkpoint.pt").read_bytes()
    status, out, err = cli("clusters", "suggest-k", trained, "--to", 5, "--json", tmp_path / "k.json")
    assert status == 0, err
    result = json.loads((tmp_path / "k.json").read_text("utf-8"))
    assert [row["k"] for row in result["tried"]] == [2, 3, 4, 5]
    assert set(result["tried"][0]) == {"k", "inertia", "silhouette", "calinski", "stability", "spread"}
    objectives = [row["inertia"] for row in result["tried"]]
    assert objectives == sorted(objectives, reverse=True)
    assert out.count("recommended: K = ") == 1
    assert f"picie name {trained} --k {result['k']}" in out
    assert (trained / "checkpoint.pt").read_bytes() == before


def test_suggest_k_refuses_what_cannot_be_tried(refused: Refused, trained: Path, tmp_path: Path) -> None:
    assert "--from 5 --to 3" in refused("clusters", "suggest-k", trained, "--from", 5, "--to", 3)
    assert "--from 1" in refused("clusters", "suggest-k", trained, "--from", 1)
    assert "numbers from 2 to 500" in refused("clusters", "suggest-k", trained, "--to", 10**9)
    assert "6 images are too few" in refused("clusters", "suggest-k", trained, "--to", 500)
    assert "--json" in refused("clusters", "suggest-k", trained, "--json", tmp_path)
