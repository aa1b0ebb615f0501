"""Runs commands on damaged input, in this process, and says how each ended.

Everything is written to a folder of the case's own. Memory is limited, so that a huge allocation fails
instead of taking the machine's.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from picie.cli.main import main

STATUSES = {0, 1, 2, 130, 143}
LIMIT = 30.0  # seconds that a command may take
_MEMORY = 6 * 2**30  # bytes of address space that a case may take beyond what the process has

Commands = Sequence[Sequence[object]]
Kind = Callable[[Path, Path, random.Random], Commands]
"""Makes damaged input: kind(source, folder, rng) writes to `folder` and returns the commands to run there."""


@dataclass(frozen=True)
class Finding:
    """A command that ended otherwise than it should.

    Attributes:
        kind: of the input.
        seed: of the case; `python -m tests.robustness --kind KIND --seed SEED` runs it again.
        command: the arguments.
        problem: what is wrong, its last line being the error's.
    """

    kind: str
    seed: int
    command: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{self.kind} {self.seed}: picie {' '.join(self.command)}\n{self.problem}"


class TooLong(BaseException):
    """The command took longer than `LIMIT`; no `except Exception` holds it back."""


def run_case(kind: str, make: Kind, seed: int, source: Path) -> tuple[int, list[Finding]]:
    """Make the input of one case and run its commands; (number of commands, findings)."""
    rng = random.Random(f"{kind} {seed}")
    findings, before = [], Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix="picie-fuzz-"))
    try:
        os.chdir(folder)
        commands = [tuple(str(a) for a in command) for command in make(source, folder, rng)]
        for command in commands:
            problem = run_command(command)
            if problem:
                findings.append(Finding(kind, seed, command, problem))
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)
    return len(commands), findings


def run_command(command: Sequence[str]) -> str:
    """What is wrong with how a command ended, or nothing."""
    out, err = io.StringIO(), io.StringIO()
    began = time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited():
            status = main(list(command))
    except TooLong:
        return f"took longer than {LIMIT:.0f} s"
    except BaseException:
        return traceback.format_exc(limit=-6)
    seconds, lines = time.monotonic() - began, err.getvalue().splitlines()
    if status not in STATUSES:
        return f"exit status {status}"
    if seconds > LIMIT:
        return f"took {seconds:.0f} s"
    if "Traceback" in err.getvalue() or "Traceback" in out.getvalue():
        return err.getvalue()[-3000:]
    if status in {1, 2} and (not lines or not lines[-1].startswith("picie: error: ") or len(lines[-1]) > 2000):
        return f"status {status}, but the last line on stderr is {lines[-1:]!r:.3000}"
    if any("Warning:" in line for line in lines):
        return f"Python's own warning: {next(line for line in lines if 'Warning:' in line)}"
    return ""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """A limit of time and of memory inside."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooLong

    handler = signal.signal(signal.SIGALRM, stop)
    memory = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, memory[1]))
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, memory)
