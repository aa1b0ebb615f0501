"""The one file of a run: safe to load, and never half written."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.forked import SECONDS, forked

from picie import Segmenter
from picie.errors import InputError
from picie.runtime import checkpoint
from picie.runtime.atomic_write import write_atomically


def test_what_is_saved_comes_back(tmp_path: Path, trained: Path) -> None:
    state = {**checkpoint.load(trained), "a": torch.arange(3), "b": {"c": [1, None, "x"]}}
    checkpoint.save(tmp_path / "checkpoint.pt", state)
    for where in (tmp_path, tmp_path / "checkpoint.pt", str(tmp_path)):
        loaded = checkpoint.load(where)
        assert torch.equal(loaded["a"], state["a"])
        assert loaded["b"] == state["b"]


def test_a_runs_checkpoint_loads_with_weights_only(trained: Path) -> None:
    state = torch.load(trained / "checkpoint.pt", weights_only=True)
    assert state["format"] == "picie"
    assert {"config", "epoch", "step", "method", "classifier", "optimizers", "matching"} <= set(state)
    assert state["classifier"]["weight"].shape == (3, 8)
    assert state["matching"]["names"] == ["red", "green", "blue"]


def test_one_file_suffices(trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    alone = shutil.copy(trained / "checkpoint.pt", tmp_path / "renamed.pt")
    image = labelled_folder / "images" / "val" / "100.jpg"
    assert np.array_equal(Segmenter.load(alone).predict(image), Segmenter.load(trained).predict(image))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["renamed.pt"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt(), RuntimeError("torch")])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"n": 1})
    before = path.read_bytes()

    def half(_: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise failure

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(failure)):
        checkpoint.save(path, {"n": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen: list[bytes] = []

    def write(file: object) -> None:
        file.write(b"new ")  # type: ignore[attr-defined]
        seen.append(path.read_bytes())
        file.write(b"content")  # type: ignore[attr-defined]

    write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new content"


def test_content_is_forced_to_disk_before_the_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("replace"), replace(self, to))[1])
    write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
    assert events[:2] == ["fsync", "replace"]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    torch.save({"format": "picie", "version": 99, "picie": "7.0"}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"written by a newer picie \(7\.0\); upgrade"):
        checkpoint.load(tmp_path)


@pytest.mark.filterwarnings("error")  # a warning would be a second line on stderr
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        checkpoint.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no checkpoint\.pt"):
        checkpoint.load(tmp_path)
    whole = (trained / "checkpoint.pt").read_bytes()
    contents = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello",
        "zeros": bytes(1000),
        "pickle": pickle.dumps({"format": "picie"}, protocol=2),
        "pickle4": pickle.dumps({"format": "picie"}, protocol=4),
        "numpy": b"\x93NUMPY\x01\x00" + bytes(200),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            InputError,
            match=rf"{name}: is not a PyTorch file, is damaged, .*\(nothing was run\); compare its size .* or fetch it again$",
        ):
            checkpoint.load(tmp_path / name)
    for other in ([1, 2], torch.zeros(2), {"state_dict": {}}, {"format": "other"}):
        torch.save(other, tmp_path / "other.pt")
        with pytest.raises(InputError, match="is not a checkpoint of picie"):
            checkpoint.load(tmp_path / "other.pt")


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for _ in range(2):
        with checkpoint.exclusive(tmp_path) as first, checkpoint.exclusive(tmp_path) as second:
            assert (first, second) == (True, False)
            with checkpoint.exclusive(tmp_path / "other") as other:
                assert other
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_a_hold_ends_with_its_process(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    with forked(tmp_path, _hold, held) as process:
        process.wait_for_output()
        assert process.output() == "True\n"
        with checkpoint.exclusive(held) as alone:
            assert not alone
        process.send(signal.SIGKILL)
        assert process.wait()[0] == -signal.SIGKILL
        with checkpoint.exclusive(held) as alone:
            assert alone


def _hold(folder: Path) -> None:
    hold = checkpoint.exclusive(folder)
    print(hold.__enter__(), flush=True)
    time.sleep(SECONDS)
