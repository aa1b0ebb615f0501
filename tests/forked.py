"""Processes of Python code or of the command line that need not import picie first, which takes seconds.

They are forked from a process that has imported it and has done nothing else, so they are as new ones otherwise: they
have their own signal handlers, standard streams and exit status, and may be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["picie.training.api", "picie.inference.predict", "picie.cli.main", "tests.conftest"])
SECONDS = 240


class Forked:
    """A process, and its output in two files of `folder`."""

    def __init__(self, folder: Path, function: Callable[..., Any], *arguments: Any) -> None:
        self.streams = folder / f"{time.monotonic_ns()}.out", folder / f"{time.monotonic_ns()}.err"
        self._process = _CONTEXT.Process(target=_run, args=(self.streams, function, arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, signum: int) -> None:
        """Send a signal."""
        os.kill(self.pid, signum)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def wait(self) -> tuple[int, str, str]:
        """Wait for its end. Returns the exit status, or -N for signal N, and the text of stdout and stderr."""
        self._process.join(SECONDS)
        status = self._process.exitcode
        assert status is not None, "it has not ended"
        out, err = (stream.read_text("utf-8") for stream in self.streams)
        return status, out, err

    def wait_for_output(self) -> None:
        """Wait until it has written a line to stdout."""
        while not self.output().endswith("\n"):
            assert self.is_running(), self.wait()
            time.sleep(0.01)

    def output(self, number: int = 0) -> str:
        """What it has written so far to stdout (0) or stderr (1)."""
        return self.streams[number].read_text("utf-8") if self.streams[number].exists() else ""


@contextmanager
def forked(folder: Path, function: Callable[..., Any], *arguments: Any) -> Iterator[Forked]:
    """Start a process of `function(*arguments)`, both of which can be pickled; it is killed at the end of the block."""
    process = Forked(folder, function, *arguments)
    try:
        yield process
    finally:
        process._process.kill()
        process._process.join()


def picie(arguments: list[str]) -> None:
    """The program `picie` with arguments: a function for `forked`."""
    from picie.__main__ import main

    sys.argv = ["picie", *arguments]
    sys.exit(main())


def _run(streams: tuple[Path, Path], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for number, path in enumerate(streams, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    function(*arguments)
