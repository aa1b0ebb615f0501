"""`picie predict --shard` and `picie gather`: N processes make what one makes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from picie.data import images
from picie.errors import InputError, Stopped
from picie.inference.predict import predict_files
from picie.inference.prediction_options import PredictOptions, Summary
from picie.inference.segmenter import Segmenter
from picie.inference.shard_record import gather
from picie.inference.sharding import Shard, parse_shard
from picie.naming import changes as naming
from picie.naming.changes import Changes

Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def photos(tmp_path: Path, labelled_folder: Path) -> Path:
    """Photos whose names collide, a damaged one, and some of 16 bits."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    source = Image.open(labelled_folder / "images" / "val" / "100.jpg")
    for name in ("a.jpg", "a.png", "b.jpg", "deep/c.jpg", "deep/d.jpg", "legend.jpg"):
        source.save(root / name)
    for number in range(3):
        Image.fromarray((np.arange(48 * 64, dtype=np.uint16) * (number + 1)).reshape(48, 64)).save(root / f"deep/e{number}.png")
    (root / "broken.jpg").write_bytes(b"x")
    return root


@pytest.fixture
def loaded_once(untrained: Path, monkeypatch: Any) -> None:
    """Load the run `untrained` once for all calls in this process, which is most of their time."""
    segmenter = Segmenter.load(untrained, "cpu")
    monkeypatch.setattr(Segmenter, "from_state", lambda *_: segmenter)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def predict_shard(run: Path, photos: Path, out: Path, text: str, **options: Any) -> Summary:
    return predict_files(run, [photos], out, options=PredictOptions(shard=parse_shard(text), **options))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("count", [3, 12])  # 12: more than there are files
def test_shards_make_what_one_process_makes(untrained: Path, photos: Path, tmp_path: Path, count: int) -> None:
    predict_files(untrained, [photos], tmp_path / "one")
    out = tmp_path / "shards"
    summaries = [predict_shard(untrained, photos, out, f"{index}/{count}") for index in range(count, 0, -1)]
    assert sum(summary.predicted for summary in summaries) == 9
    assert not (out / "predictions.json").exists()
    assert gather(out).predicted == 9
    assert files_of(out) == files_of(tmp_path / "one")


def test_shards_partition_the_files_evenly() -> None:
    files = [Path(f"{number}.jpg") for number in range(10)]
    parts = [Shard(index, 4).part(reversed(files)) for index in range(1, 5)]
    assert sorted(file for part in parts for file in part) == files
    assert [len(part) for part in parts] == [3, 3, 2, 2]


@pytest.mark.usefixtures("loaded_once")
def test_an_interrupted_shard_goes_on(untrained: Path, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out, original = tmp_path / "out", Segmenter.predict

    def interrupted(self: Segmenter, image: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, image)

    predict_shard(untrained, photos, out, "2/2")
    monkeypatch.setattr(Segmenter, "predict", interrupted)
    with pytest.raises(Stopped, match="stopped; 1 of 5 images are done"):
        predict_shard(untrained, photos, out, "1/2")
    monkeypatch.undo()
    with pytest.raises(InputError, match="shards 1/2 unfinished; repeat `picie predict` with their --shard"):
        gather(out)
    assert predict_shard(untrained, photos, out, "1/2").present == 1
    assert gather(out).predicted == 9


@pytest.mark.usefixtures("loaded_once")
def test_another_division_keeps_what_is_done(untrained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_shard(untrained, photos, out, "1/4").predicted == 3
    Image.new("RGB", (20, 30)).save(photos / "new.png")
    done = [predict_shard(untrained, photos, out, f"{index}/3") for index in (1, 2, 3)]
    assert (sum(one.present for one in done), sum(one.predicted for one in done)) == (3, 7)
    predict_files(untrained, [photos], tmp_path / "one")
    gather(out)
    assert files_of(out) == files_of(tmp_path / "one")


@pytest.mark.usefixtures("loaded_once")
def test_gathered_predictions_are_not_made_again(untrained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(untrained, [photos / "deep"], out)
    for index in (1, 2):
        predict_shard(untrained, photos, out, f"{index}/2")
    gather(out)
    Image.new("RGB", (20, 30)).save(photos / "0.png")  # the first: all others move to the other shard
    summaries = [predict_shard(untrained, photos, out, f"{index}/2") for index in (1, 2)]
    assert (summaries[0].predicted + summaries[1].predicted, summaries[0].present + summaries[1].present) == (1, 9)
    gather(out)
    assert predict_files(untrained, [photos], out).present == 10


@pytest.mark.usefixtures("loaded_once")
def test_what_is_missing_is_named(untrained: Path, photos: Path, tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "out"
    for index in (1, 3):
        predict_shard(untrained, photos, out, f"{index}/4")
    assert refused("gather", out) == f"{out}: shards 2/4, 4/4 missing; repeat `picie predict` with their --shard"
    Image.new("RGB", (20, 30)).save(photos / "new.png")
    predict_shard(untrained, photos, out, "2/4")
    assert "shards 1/4, 3/4, 4/4 missing (1/4, 3/4 had other files); repeat" in refused("gather", out)
    assert "holds shards that are not joined; run `picie gather" in refused("predict", untrained, photos, "--out", out)
    assert "has no records of shards; give the --out folder" in refused("gather", photos)


def test_shards_of_other_segments_are_not_joined(own_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for index in (1, 2):
        predict_shard(own_run, photos, out, f"{index}/2")
        naming.change(own_run, Changes(names={"0": (f"sky {index}", "#0000ff")}), device="cpu")
    with pytest.raises(InputError, match="shards 1/2 and 2/2 differ in their segments or their scale of values; repeat"):
        gather(out)
    for index in (1, 2):
        assert predict_shard(own_run, photos, out, f"{index}/2").present == 0
    gather(out)
    assert predict_files(own_run, [photos], out).present == 9


@pytest.mark.usefixtures("loaded_once")
def test_one_scale_for_all_shards(untrained: Path, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen = []
    original = images.compose
    monkeypatch.setattr(images, "compose", lambda pixels, reading: seen.append(reading.scales) or original(pixels, reading))
    for index in (1, 2, 3):
        predict_shard(untrained, photos, tmp_path / "out", f"{index}/3")
    assert [scale["uint16"] for scale in seen if scale] == [(0.0, 16383.0)] * 3


@pytest.mark.usefixtures("loaded_once")
def test_files_of_a_killed_shard_are_cleared_when_all_are_done(untrained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_shard(untrained, photos, out, "1/2")
    (out / "deep" / ".0123abcd.4.partial").write_bytes(b"half")
    predict_shard(untrained, photos, out, "2/2")
    assert (out / "deep" / ".0123abcd.4.partial").exists()  # it may be that of another process
    gather(out)
    assert not list(out.rglob("*.partial"))


@pytest.mark.parametrize("text", ["0/0", "5/4", "0/4", "-1/4", "1", "1/x", "/", "1/4/4", "1 / 4", "a"])
def test_impossible_shards_are_refused(text: str, refused: Refused, tmp_path: Path) -> None:
    message = refused("predict", "run", tmp_path, "--out", tmp_path / "out", f"--shard={text}")
    assert message.startswith(f"--shard {text}: give I/N with I from 1 to N")


def test_the_environment_names_the_shard() -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    assert parse_shard("env", torchrun) == Shard(6, 8, 1)
    assert parse_shard("env", slurm) == Shard(1, 2, 0)
    assert parse_shard("env", {**slurm, **torchrun}) == Shard(6, 8, 1)
    for environment in ({}, {"RANK": "1"}):
        with pytest.raises(InputError, match="start it with torchrun or srun, or give --shard I/N"):
            parse_shard("env", environment)
    with pytest.raises(InputError, match="SLURM_PROCID=2, SLURM_NTASKS=2 are not a rank and a number of processes"):
        parse_shard("env", {**slurm, "SLURM_PROCID": "2"})


@pytest.mark.usefixtures("loaded_once")
def test_the_command_line_in_the_environment_of_torchrun(
    untrained: Path, photos: Path, tmp_path: Path, cli: Cli, refused: Refused, monkeypatch: Any
) -> None:
    out = tmp_path / "out"
    command = ("predict", untrained, photos, "--out", out, "--device", "cpu")
    for rank in (1, 0):
        for name, value in (("WORLD_SIZE", 2), ("RANK", rank), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        if rank == 0:
            assert refused(*command).startswith("2 processes (WORLD_SIZE) would predict the same images; give --shard env")
        status, stdout, _ = cli(*command, "--shard", "env")
        assert status == 0
        assert f" images -> {out}" in stdout
        assert stdout.startswith(f"shard {rank + 1}/2: ")
    status, stdout, stderr = cli("gather", out)
    assert (status, stdout) == (0, f"9 images -> {out}, 1 skipped\n")
    assert stderr.count("picie: warning: skipped: ") == 1
    assert "give it to picie gather" in refused(*command, "--shard", "1/2", "--format", "coco")
    assert "--overwrite: would delete what other shards write" in refused(*command, "--shard", "1/2", "--overwrite")


@pytest.mark.long
def test_processes_at_the_same_time(untrained: Path, photos: Path, tmp_path: Path) -> None:
    for number in range(60):
        shutil.copy(photos / "b.jpg", photos / f"more{number}.jpg")
    predict_files(untrained, [photos], tmp_path / "one")
    out = photos / "out"  # below the photos: no process may take another's label maps for photos
    command = [sys.executable, "-m", "picie", "predict", untrained, photos, "--out", out, "--device", "cpu", "-q", "--shard"]
    running = [subprocess.Popen([*map(str, command), f"{index}/4"]) for index in (1, 2, 3, 4)]
    assert [process.wait() for process in running] == [0] * 4
    assert subprocess.run([sys.executable, "-m", "picie", "gather", out]).returncode == 0
    assert files_of(out) == files_of(tmp_path / "one")
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 69
