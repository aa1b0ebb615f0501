"""What a run leaves to read: metrics.jsonl, run.json, log lines and progress bars."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from picie.checkpoint import write_atomically

log = logging.getLogger("picie")
console = Console(stderr=True)  # progress bars and log lines; results go to stdout
_PACKAGES = ("picie", "torch", "torchvision", "timm", "numpy", "scipy", "pillow", "safetensors")


def set_up_logging(quiet: bool = False) -> None:
    """Send the package's log lines to stderr, above any progress bar; `quiet` keeps warnings alone."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False, highlighter=None)
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"picie: warning: {text}" if record.levelno >= logging.WARNING else text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} images/s" if speed else "", style="progress.data.speed")


class Progress:
    """Progress bars with rate and time left, on a terminal; silent elsewhere.

    Args:
        enabled: False never shows any.
    """

    def __init__(self, enabled: bool = True) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._shown = RichProgress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal))

    def __enter__(self) -> Progress:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    @contextlib.contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of `total` images for the duration of the context; call what it yields with the number just done."""
        task = self._shown.add_task(name, total=total)
        try:
            yield lambda n: self._shown.advance(task, n)
        finally:
            self._shown.remove_task(task)


class RunLog:
    """The records in a run's folder.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._metrics = folder / "metrics.jsonl"
        self._record = folder / "run.json"

    def start(self, details: dict[str, Any]) -> None:
        """Write run.json: versions, machine, git state and `details`; a resumed run keeps its first start."""
        record = self.read()
        record.setdefault("started", time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        record.update(status="running", versions=versions(), git=git_state(), platform=platform.platform(), **details)
        self._write(record)

    def update(self, **details: Any) -> None:
        """Add to run.json."""
        self._write({**self.read(), **details})

    def read(self) -> dict[str, Any]:
        """The content of run.json."""
        if not self._record.is_file():
            return {}
        content: dict[str, Any] = json.loads(self._record.read_text("utf-8"))
        return content

    def _write(self, record: dict[str, Any]) -> None:
        text = json.dumps(record, indent=2) + "\n"
        write_atomically(self._record, lambda file: file.write(text.encode()))

    def metrics(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.folder)

    def keep_epochs(self, n: int) -> None:
        """Drop the metrics of epochs after the first `n`: a killed run may have written what it did not save."""
        lines = [line for line in self.read_metrics() if line["epoch"] <= n]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(self._metrics, lambda file: file.write(text.encode()))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that was cut off is passed over."""
    path = folder / "metrics.jsonl"
    lines = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_state() -> str | None:
    """The commit that picie runs from, with "+changes" if files differ from it; None for an installed package."""
    here = Path(__file__).parent
    try:
        describe = ["git", "-C", str(here), "describe", "--always", "--dirty=+changes", "--abbrev=12"]
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
