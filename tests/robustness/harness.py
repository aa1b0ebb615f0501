"""Run commands on mutated inputs, and classify how they end.

A command must end within 30 seconds, with one of the documented exit statuses, without a Python traceback, and an
error must be one line on stderr that starts with "picie: ".
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
from tests.robustness.kinds import KINDS, Fixture

from picie.cli.main import main

SECONDS = 30
STATUSES = {0, 1, 2, 130, 143}


class Hang(BaseException):
    """A command did not end in time. Not an `Exception`, so that no handler of the product catches it."""


@dataclass
class Report:
    """Counts of how commands ended, by kind of input, and the inputs that ended badly."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """Number of inputs tried."""
        return sum(sum(counts.values()) for counts in self.outcomes.values())

    def add(self, kind: str, number: int, outcome: str, detail: str) -> None:
        """Count one input."""
        self.outcomes.setdefault(kind, Counter())[outcome] += 1
        if not outcome.startswith("status "):
            self.failures.append(f"{kind} {number}: {outcome}: {detail}")

    def __add__(self, other: Report) -> Report:
        return Report({**self.outcomes, **other.outcomes}, [*self.failures, *other.failures])

    def table(self) -> str:
        """One line per kind of input."""
        lines = [
            f"{kind:<22}" + ", ".join(f"{name}: {n}" for name, n in sorted(c.items())) for kind, c in self.outcomes.items()
        ]
        return "\n".join(lines)


def try_inputs(fixture: Fixture, kinds: dict[str, range]) -> Report:
    """Run the mutated inputs of some numbers of each kind; a number is the seed of its mutation."""
    report = Report()
    for kind, numbers in kinds.items():
        for number in numbers:
            report.add(kind, number, *try_input(fixture, kind, number))
    return report


def try_input(fixture: Fixture, kind: str, number: int) -> tuple[str, str]:
    """("status N" or what went wrong, detail) of one mutated input."""
    with tempfile.TemporaryDirectory(dir=fixture.folder) as folder, contextlib.chdir(folder):
        place = Path(folder)
        rng = np.random.default_rng([number, list(KINDS).index(kind)])
        arguments = [str(a) for a in KINDS[kind](fixture, place, rng)]
        outcome = run(arguments)
        return outcome[0], f"{' '.join(arguments)[:300]}: {outcome[1]}"


def run(arguments: list[str]) -> tuple[str, str]:
    """("status N" or what went wrong, detail) of one command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with time_limit(SECONDS), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments)
    except Hang:
        return f"hang over {SECONDS} s", _where()
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:200]} {_origin(error)}"
    text = err.getvalue()
    if status not in STATUSES:
        return f"exit {status}", text[-300:]
    if "Traceback (most recent call last)" in text + out.getvalue():
        return "traceback printed", text[-300:]
    if status and not text.rstrip("\n").rsplit("\n", 1)[-1].startswith("picie: "):
        return "no line", text[-300:]
    return f"status {status}", ""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `Hang` inside the block after `seconds`."""

    def expired(signum: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _origin(error: BaseException) -> str:
    """The innermost line of picie in a traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}picie{os.sep}" in f.filename]
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _where() -> str:
    return " ".join(traceback.format_exc(limit=-4).split())[-400:]


def keep(fixture: Fixture, kind: str, number: int, out: Path) -> list[str]:
    """Write one mutated input to the folder `out`, to look at it; returns the command."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rng = np.random.default_rng([number, list(KINDS).index(kind)])
    return [str(a) for a in KINDS[kind](fixture, out.absolute(), rng)]
