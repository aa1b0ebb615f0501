"""Commands stopped by real signals in their own processes, and repeated; `make test-long` runs this file.

The interruptions of training are in tests/training/test_resume.py and tests/runtime/test_atomic_write.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import UNTRAINED, checkpoint_of
from tests.data.admin.test_download import UNPACKED, Server, files_in
from tests.data.admin.test_download import server as server  # a fixture
from tests.equal_runs import assert_equal_runs

from picie.comparing.run_records import Run
from picie.runtime.atomic_write import is_partial
from picie.training import api

pytestmark = pytest.mark.long
both_signals = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
_SECONDS = 240
Start = Callable[..., "subprocess.Popen[str]"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """start("predict", ...): a process of the command; start(script="...") runs Python code instead."""
    processes: list[subprocess.Popen[str]] = []

    def call(*arguments: object, script: str = "") -> subprocess.Popen[str]:
        how = ["-c", script] if script else ["-m", "picie"]
        process = subprocess.Popen(
            [sys.executable, *how, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
        )
        processes.append(process)
        return process

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + _SECONDS
    while not condition():
        assert process is None or process.poll() is None, "the command ended before it was interrupted"
        assert time.monotonic() < end
        time.sleep(0.002)


def stop(process: subprocess.Popen[str], signum: signal.Signals) -> str:
    """Send the signal; the command must end with its status and one last line. Returns that line."""
    process.send_signal(signum)
    _, errors = process.communicate(timeout=_SECONDS)
    assert process.returncode == 128 + signum, errors
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("picie: stopped"), errors
    return last


@both_signals
def test_predict(start: Start, cli: Cli, trained: Path, labelled_folder: Path, tmp_path: Path, signum: signal.Signals) -> None:
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for i in range(120):
        shutil.copy(labelled_folder / "images" / "val" / "100.jpg", many / f"{i}.jpg")
    command = ("predict", trained, many, "--out", out, "--device", "cpu")

    def times() -> dict[str, int]:
        files = [path for path in out.rglob("*") if path.name not in ("predictions.json", "legend.png")]
        return {path.name: path.stat().st_mtime_ns for path in files}

    process = start(*command)
    wait_for(lambda: out.is_dir() and len(list(out.iterdir())) > 20, process)
    line = stop(process, signum)
    before = times()
    done = len(json.loads((out / "predictions.json").read_text("utf-8"))["images"])
    assert line == f"picie: stopped; {done} of 120 images are done. Repeat the command to continue"
    assert 9 <= done < 120
    assert len(before) == 2 * done
    status, _, errors = cli(*command)
    assert status == 0, errors
    assert f"{done} of 120 images are there already" in errors
    after = times()
    assert len(after) == 240
    assert {name: after[name] for name in before} == before


@both_signals
def test_ablate(start: Start, cli: Cli, labelled_folder: Path, tmp_path: Path, signum: signal.Signals) -> None:
    out = tmp_path / "out"
    jobs = 2 if signum == signal.SIGTERM else 1
    vary = ("--vary", "loss.temperature=0.3|1.0", "--seeds", 1, "--jobs", jobs)
    command = ("ablate", labelled_folder, *UNTRAINED[:-1], *vary, "--out", out, "train.epochs=15")
    process = start(*command)
    wait_for(lambda: any(out.glob("*/*/metrics.jsonl")), process)
    assert stop(process, signum) == "picie: stopped with 0 of 2 runs finished; run the same command to continue"
    stopped = [Run.read(file.parent) for file in out.glob("*/*/checkpoint.pt")]
    assert 1 <= len(stopped) <= jobs
    assert {run.record["status"] for run in stopped} == {"stopped"}
    status, _, errors = cli(*command)
    assert status == 0, errors
    assert "2 to do" in errors
    folder = out / "temperature=0.3" / "seed-0"
    assert Run.read(folder).finished
    assert Run.read(out / "temperature=1.0" / "seed-0").finished
    assert (out / "comparison.json").is_file()
    assert_equal_runs(folder, api.train(Run.read(folder).config, tmp_path / "whole"))


@both_signals
def test_name(start: Start, cli: Cli, own_run: Path, trained: Path, tmp_path: Path, signum: signal.Signals) -> None:
    expected = Path(shutil.copytree(trained, tmp_path / "expected"))
    before = {path.name: path.read_bytes() for path in own_run.iterdir()}
    arguments = ("--k", 40, "--merge-to", 4, "--device", "cpu")
    process = start("name", own_run, *arguments)
    wait_for(lambda: _is_locked(own_run), process)
    stop(process, signum)
    assert {path.name: path.read_bytes() for path in own_run.iterdir() if not is_partial(path)} == before
    for run in (own_run, expected):
        status, _, errors = cli("name", run, *arguments)
        assert status == 0, errors
    ours, theirs = (checkpoint_of(run)["naming"] for run in (own_run, expected))
    assert ours["segments"] == theirs["segments"]
    assert torch.equal(ours["clusters"]["weight"], theirs["clusters"]["weight"])
    assert {path.name for path in own_run.iterdir()} == set(before)


def _is_locked(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


_DOWNLOAD = """
import sys, typer
from pathlib import Path
from picie.cli.data import TerminalReporter
from picie.cli.exit_status import run_app
from picie.data.admin.download import download
from picie.data.admin.sources import Download, Source

app = typer.Typer()

@app.command()
def fetch(url: str, root: Path) -> None:
    source = Source(url, {"train2017": ("images/train2017", "train2017")}, ".jpg", {"train2017/*.jpg": 3}, 300_000)
    download("pictures", root, TerminalReporter(), {"pictures": Download(("photos",), (source,))}, backoff=0)

sys.exit(run_app(app, "picie"))
"""


@both_signals
def test_download(start: Start, cli: Cli, server: Server, tmp_path: Path, signum: signal.Signals) -> None:
    root, content = tmp_path / "data", server.files["train.zip"]
    command = (f"{server.address}/train.zip", root)  # type: ignore[attr-defined]
    signalled = False

    def strike() -> None:
        """After half of the archive: send the signal, and the rest a little later."""
        nonlocal signalled
        wait_for(lambda: (root / ".downloads" / "train.zip.part").is_file())
        process.send_signal(signum)
        signalled = True
        time.sleep(0.3)

    server.half_way = strike
    process = start(*command, script=_DOWNLOAD)
    _, errors = process.communicate(timeout=_SECONDS)
    assert signalled
    assert process.returncode == 128 + signum, errors
    assert "are kept: run the same command again to resume" in errors.splitlines()[-1]
    kept = (root / ".downloads" / "train.zip.part").stat().st_size
    assert 0 < kept <= len(content)
    server.half_way, server.sent = None, 0
    process = start(*command, script=_DOWNLOAD)
    _, errors = process.communicate(timeout=_SECONDS)
    assert process.returncode == 0, errors
    assert files_in(root) == UNPACKED
    assert server.has_sent(len(content) - kept)


def test_the_runs_of_a_killed_ablation_stop_and_can_be_continued(start: Start, labelled_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    vary = ("--vary", "loss.temperature=0.3|1.0", "--seeds", 1, "--jobs", 2, "--out", out)
    process = start("ablate", labelled_folder, *UNTRAINED[:-1], "train.epochs=100000", *vary)
    wait_for(lambda: len(list(out.glob("*/*/metrics.jsonl"))) == 2, process)
    process.kill()
    folders = [file.parent for file in out.glob("*/*/metrics.jsonl")]
    wait_for(lambda: all(Run.read(folder).record["status"] == "stopped" for folder in folders))
    wait_for(lambda: not any(_is_locked(folder) for folder in folders))


_BLOCKED = """
import sys, threading
from PIL import Image
from picie.cli.main import main

class Blocked:
    classes = None
    def __init__(self, split: str = "train") -> None: ...
    def __len__(self) -> int: return 4
    def name(self, index: int) -> str: return str(index)
    def image(self, index: int) -> Image.Image:
        print("blocked", file=sys.stderr, flush=True)
        threading.Event().wait()

sys.modules["blocked"] = sys.modules["__main__"]
sys.exit(main())
"""


@both_signals
def test_a_second_signal_ends_a_command_whose_threads_are_blocked(start: Start, tmp_path: Path, signum: signal.Signals) -> None:
    options = [option for option in UNTRAINED if not option.startswith("data.")]
    process = start("train", "--trust", *options, "data.name=blocked:Blocked", "--out", tmp_path / "run", script=_BLOCKED)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("blocked"):
            process.send_signal(signum)
        if "send it again to stop at once" in line:
            began = time.monotonic()
            process.send_signal(signum)
            break
    process.communicate(timeout=_SECONDS)
    assert process.returncode == 128 + signum
    assert time.monotonic() - began < 20
