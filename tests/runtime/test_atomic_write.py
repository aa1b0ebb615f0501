"""A full disk or a kill leaves the earlier file whole, and ends with one line."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tests.conftest import TINY, UNTRAINED
from tests.forked import forked, picie

from picie.runtime import run_record
from picie.runtime.atomic_write import is_partial, partial_folder, reserve, write_atomically
from picie.runtime.checkpoint import exclusive
from picie.training.label_store import PseudoLabelStore

Cli = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside, writing beyond `size` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on files would end git, too, in the middle of refreshing its index."""
    monkeypatch.setattr(run_record, "git_state", lambda: None)


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_a_write_without_room_leaves_what_was_there(tmp_path: Path, earlier: bytes | None) -> None:
    path = tmp_path / "file"
    if earlier is not None:
        path.write_bytes(earlier)
    with largest_file(1000), pytest.raises(OSError) as caught:
        write_atomically(path, lambda file: file.write(bytes(1001)))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert files(tmp_path) == ({} if earlier is None else {"file": earlier})
    with largest_file(1000):
        write_atomically(path, lambda file: file.write(bytes(1000)))
    assert files(tmp_path) == {"file": bytes(1000)}


def test_room_is_checked_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(100, 91, 9))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", lambda file: file.write(bytes(10)))
    write_atomically(tmp_path / "file", lambda file: file.write(bytes(9)))


@pytest.mark.parametrize("system", ["posix_fallocate", "refuses", "none"])
def test_reserved_bytes_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if system == "refuses":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    elif system == "none":
        monkeypatch.delattr(os, "posix_fallocate")
    path, size = tmp_path / "file", 3 * 2**20 + 5
    with path.open("wb") as file:
        file.write(b"head")
        reserve(file, path, size)
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 >= size
    assert path.read_bytes() == b"head" + bytes(size - 4)
    with largest_file(2**20), (tmp_path / "other").open("wb") as file, pytest.raises(OSError, match="large"):
        reserve(file, tmp_path / "other", size)


def test_the_label_store_is_on_the_disk_before_it_is_mapped(tmp_path: Path) -> None:
    store = PseudoLabelStore(tmp_path / "labels.npy", (2, 5, 3, 4), [300])
    labels = torch.arange(12).reshape(1, 3, 4) + 280
    store.write(1, np.array([4]), labels)
    store.flush()
    assert torch.equal(store.read(np.array([4]))[1], labels)
    assert np.load(tmp_path / "labels.npy").shape == (2, 5, 3, 4)
    assert not np.load(tmp_path / "labels.npy")[0].any()
    with largest_file(2**20), pytest.raises(OSError, match="large"):
        PseudoLabelStore(tmp_path / "large.npy", (2, 10, 300, 400), [300])


def options(out: Path, data: Path) -> tuple[Any, ...]:
    return ("train", data, "--out", out, *TINY)


def ends_in_one_line(result: tuple[int, str, str]) -> str:
    status, _, error = result
    last = error.splitlines()[-1]
    assert status == 1, error
    assert "Traceback" not in error
    assert last.startswith("picie: error: ")
    assert "the disk is full" in last
    return last


def test_a_disk_that_is_full_from_the_start_leaves_nothing(cli: Cli, labelled_folder: Path, tmp_path: Path) -> None:
    for size in (500, 10_000):  # the configuration; the checkpoint
        with largest_file(size):
            ends_in_one_line(cli(*options(tmp_path / "run", labelled_folder)))
        assert not (tmp_path / "run").exists()


def test_a_run_goes_on_after_space_is_freed(
    cli: Cli, labelled_folder: Path, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = tmp_path / "run", shutil.disk_usage

    def usage(path: Any) -> Any:  # full from the end of the first epoch on
        return _Usage(100, 100, 0) if (run / "metrics.jsonl").exists() else real(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    line = ends_in_one_line(cli(*options(run, labelled_folder)))
    assert "--resume" in line
    monkeypatch.undo()
    torch.load(run / "checkpoint.pt", weights_only=True)  # the earlier one, whole
    status, _, error = cli("train", "--resume", run)
    assert status == 0, error
    whole = torch.load(trained / "checkpoint.pt", weights_only=True)["method"]
    resumed = torch.load(run / "checkpoint.pt", weights_only=True)["method"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "command",
    [
        ("name", "RUN", "0=sky"),
        ("evaluate", "RUN", "--name-clusters"),
        ("report", "RUN"),
        pytest.param(("export", "RUN", "OUT.pt2"), marks=pytest.mark.long),
    ],
)
def test_commands_that_write_end_in_one_line(cli: Cli, own_run: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    before = files(own_run)
    arguments = [own_run if part == "RUN" else tmp_path / "net.pt2" if part == "OUT.pt2" else part for part in command]
    with largest_file(2000):
        status, _, error = cli(*arguments)
    assert "Traceback" not in error
    assert "full" in error.splitlines()[-1] or "too large" in error
    assert status in {0, 1}  # evaluate still scores, and warns
    assert files(own_run) == before
    assert not (tmp_path / "net.pt2").exists()


def test_reading_commands_write_nothing(cli: Cli, own_run: Path, labelled_folder: Path, tmp_path: Path) -> None:
    before, times = files(own_run), {p: p.stat().st_mtime_ns for p in (own_run, *own_run.rglob("*"))}
    image = labelled_folder / "images" / "val" / "100.jpg"
    for command in (
        ("name", own_run),
        ("name", own_run, "--write", tmp_path / "names.toml"),
        ("evaluate", own_run, "--bootstrap", 0),
        ("predict", own_run, image, "--out", tmp_path / "out"),
        ("clusters", "suggest-k", own_run, "--to", 3),
        ("neighbors", own_run, image, 5, 5, "--in", labelled_folder / "images", "--out", tmp_path / "neighbors.png"),
        ("report", own_run, "--out", tmp_path / "report.html"),
        ("compare", own_run),
    ):
        status, _, error = cli(*command)
        assert status == 0, error
    assert files(own_run) == before
    assert {p: p.stat().st_mtime_ns for p in (own_run, *own_run.rglob("*"))} == times


def test_what_a_killed_process_left_is_no_obstacle(cli: Cli, labelled_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".0123abcd.4242.partial").write_bytes(b"[dat")
    assert cli("train", labelled_folder, "--out", run, *UNTRAINED)[0] == 0
    (run / ".0123abcd.4243.partial").write_bytes(bytes(100))
    assert cli("name", run, "0=sky")[0] == 0
    assert not any(is_partial(path) for path in run.iterdir())


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_kill_while_the_first_files_are_written(cli: Cli, labelled_folder: Path, tmp_path: Path, seconds: float) -> None:
    run = tmp_path / "run"
    with forked(tmp_path, picie, [str(a) for a in options(run, labelled_folder)]) as process:
        while not (run.exists() and any(run.iterdir())) and process.is_running():
            time.sleep(0.001)
        time.sleep(seconds)
        process.send(signal.SIGKILL)
        process.wait()
    command = ("train", "--resume", run) if (run / "config.toml").is_file() else options(run, labelled_folder)
    status, _, error = cli(*command)
    assert status == 0, error


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with partial_folder(out) as partial:
        assert not out.exists()
        (partial / "a.txt").write_text("first")
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    with pytest.raises(RuntimeError), partial_folder(out) as partial:
        (partial / "b.txt").write_text("second")
        raise RuntimeError
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    with partial_folder(out) as partial:
        (partial / "b.txt").write_text("second")
    assert [path.name for path in out.iterdir()] == ["b.txt"]
    assert list(tmp_path.iterdir()) == [out]


def test_folders_of_killed_processes_are_cleared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with partial_folder(out) as partial:
        start = partial.name.split(".")[1]
    for name in (f".{start}.1.partial", f".earlier.{start}.1.partial"):
        (tmp_path / name / "labels").mkdir(parents=True)
    others = {".0123abcd.1.partial", f".{start}.mine.partial"}  # another target's, and the user's
    for name in others:
        (tmp_path / name).mkdir()
    with partial_folder(out):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", *others}


def test_what_other_people_named_partial_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("text")
    for folder in (tmp_path, tmp_path / "work", tmp_path / ".0123abcd.1.partial"):
        folder.mkdir(exist_ok=True)
        for name in (".mine.partial", ".config.toml.4.partial", ".0123ABCD.4.partial", ".0123abcd.4.partial.txt"):
            (folder / name).write_text("text")
    (tmp_path / "work" / ".0123abcd.4.partial").write_text("of a process that works there")
    (tmp_path / ".89abcdef.5.partial").symlink_to(tmp_path / "thesis.txt")
    (tmp_path / ".89abcdef.6.partial").symlink_to(tmp_path / "work", target_is_directory=True)
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    for name in (".0123abcd.4.partial", ".0123abcd.4.rows.partial"):
        (tmp_path / name).write_text("half")
    with exclusive(tmp_path) as locked:
        assert locked
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before
