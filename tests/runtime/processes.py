"""Starts processes that form one run, as torchrun does or by torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.forked import forked

ROOT = Path(__file__).parents[1]
TIMEOUT = 240  # timeout in seconds


def environment(**variables: object) -> dict[str, str]:
    """Return the environment of this process with the package and tests on the path, one thread, and `variables`."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths} | {k: str(v) for k, v in variables.items()}


def together(folder: Path, function: Callable[..., None], *arguments: object) -> list[tuple[int, str]]:
    """Return exit status and stderr of two processes of one run, each of `function(*arguments)`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    variables = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in (0, 1)]
    with (
        forked(folder, _within, variables[0], function, arguments) as first,
        forked(folder, _within, variables[1], function, arguments) as second,
    ):
        ended = [process.wait() for process in (first, second)]
    return [(status, errors) for status, _, errors in ended]


def _within(variables: dict[str, object], function: Callable[..., None], arguments: Sequence[object]) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})
    function(*arguments)


def torchrun(folder: Path, script: Path, *arguments: object) -> tuple[int, list[str]]:
    """Return the exit status of torchrun with two processes of `script`, and the stderr of each."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--log-dir={folder}", "--redirects=3"]
    done = subprocess.run(
        [sys.executable, *command, script, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, [next(folder.glob(f"*/attempt_0/{rank}/stderr.log")).read_text("utf-8") for rank in range(2)]
