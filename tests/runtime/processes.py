"""Starts processes that form one run, as torchrun does or by torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT = 240  # timeout in seconds


def environment(**variables: object) -> dict[str, str]:
    """Return the environment of this process with the package and tests on the path, one thread, and `variables`."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths} | {k: str(v) for k, v in variables.items()}


def together(arguments: Sequence[object], count: int = 2) -> list[tuple[int, str]]:
    """Return exit status and stderr of each of `count` processes of `python ARGUMENTS`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=environment(RANK=rank, LOCAL_RANK=rank, **shared),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        texts = [process.communicate(timeout=TIMEOUT)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, texts, strict=True)]


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
