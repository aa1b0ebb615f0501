"""The replacements of system calls that Windows lacks, on a system where these are taken away."""

from __future__ import annotations

import ast
import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.conftest import checkpoint_of

from picie.config import Config
from picie.inference.predict import predict_files
from picie.runtime import checkpoint, system_calls
from picie.training import api

POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog"}
TAKEN = {"pread", "preadv", "pwrite", "pwritev", "posix_fallocate", "sched_getaffinity", "set_blocking"}  # from os
POSIX_NAMES = TAKEN | {"fork", "getuid", "geteuid", "killpg", "setsid", "mkfifo", "statvfs", "uname", "getrusage", "flock"}
POSIX_NAMES |= {"SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "setitimer", "pthread_kill"}
SOURCE = Path(system_calls.__file__).parents[1]


@pytest.fixture
def without_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what Windows lacks."""
    for name in TAKEN:
        monkeypatch.delattr(os, name, raising=False)
    for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
        monkeypatch.delattr(mmap, name)
    monkeypatch.setattr(system_calls, "fcntl", None)
    monkeypatch.setattr(system_calls, "resource", None)
    memory = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123e6))
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: memory))


@pytest.mark.usefixtures("without_posix")
def test_a_run_and_its_predictions_are_the_same_without_posix_calls(
    trained: Path, tiny: Callable[..., Config], labelled_folder: Path, tmp_path: Path
) -> None:
    run = api.train(tiny(), tmp_path / "run")
    expected, found = checkpoint_of(trained), checkpoint_of(run)
    for name, tensor in expected["method"].items():
        assert tensor.equal(found["method"][name]), name
    assert not (run / ".lock").exists()
    photos = labelled_folder / "images" / "val"
    assert predict_files(run, [photos], tmp_path / "out").predicted == 2
    predict_files(trained, [photos], tmp_path / "expected")
    assert (tmp_path / "out" / "100.png").read_bytes() == (tmp_path / "expected" / "100.png").read_bytes()
    api.resume(run, ("train.epochs=3",))
    assert checkpoint_of(run)["epoch"] == 3
    assert system_calls.peak_memory_mb() == 123


@pytest.mark.usefixtures("without_posix")
def test_a_folder_is_locked_by_a_file_where_it_cannot_be_locked_itself(tmp_path: Path) -> None:
    with checkpoint.exclusive(tmp_path) as first, checkpoint.exclusive(tmp_path) as second:
        assert (first, second) == (True, False)
    with checkpoint.exclusive(tmp_path) as again:
        assert again
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError), checkpoint.exclusive(tmp_path / "gone"):
        pass


@pytest.mark.parametrize("posix", [True, False])
def test_records_are_read_and_written_by_threads(tmp_path: Path, posix: bool, request: pytest.FixtureRequest) -> None:
    if not posix:
        request.getfixturevalue("without_posix")
    records = np.random.default_rng(0).integers(0, 256, (300, 64)).astype(np.uint8)
    file = system_calls.RecordFile.temporary(tmp_path, 64)

    def read(number: int) -> np.ndarray:
        row = np.empty(64, np.uint8)
        file.read(number, row)
        return row

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: file.write(number, records[number].tobytes()), reversed(range(300))))
        assert np.array_equal(np.stack(list(pool.map(read, range(300)))), records)
    file.close()


def test_posix_only_calls_are_made_in_one_module_or_after_a_look() -> None:
    """Other modules name neither modules nor functions that only POSIX systems have."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            names: set[Any] = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} & POSIX_MODULES
            elif isinstance(node, ast.ImportFrom):
                names = {node.module} & POSIX_MODULES
            elif isinstance(node, ast.Attribute) and node.attr in POSIX_NAMES and f'hasattr(os, "{node.attr}")' not in text:
                names = {node.attr}
            found += [f"{path.relative_to(SOURCE)}: {name}" for name in names]
    assert {line.split(":")[0] for line in found} == {"runtime/system_calls.py"}, found
