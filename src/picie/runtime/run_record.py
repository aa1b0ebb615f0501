"""The records in a run's folder: run.json and metrics.jsonl."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picie.errors import InputError
from picie.runtime import distributed
from picie.runtime.atomic_write import write_atomically
from picie.runtime.loggers import Logger, open_loggers
from picie.runtime.record_schema import parse_line, parse_record

_PACKAGES = ("picie", "torch", "torchvision", "timm", "numpy", "scipy", "pillow", "safetensors")


class RunRecord:
    """The records in a run's folder; of several processes the main one writes.

    Args:
        folder: the run's folder.
        loggers: where the lines of metrics.jsonl go, too, as `run.loggers` names it.
    """

    def __init__(self, folder: Path, loggers: Sequence[str] = ()) -> None:
        self.folder, self._names = folder, loggers
        self._loggers: list[Logger] = []
        self._metrics = folder / "metrics.jsonl"
        self._record = folder / "run.json"

    def start(self, details: dict[str, Any]) -> None:
        """Write run.json: versions, machine, git state and `details`; a resumed run keeps its first start."""
        if not distributed.is_main():
            return
        record = self.read()
        record.setdefault("started", time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        record.update(status="running", versions=versions(), git=git_state(), platform=platform.platform(), **details)
        self._write(record)

    def open_loggers(self) -> None:
        """Get the loggers ready, before the run's first line or that with which it goes on. Raises `InputError`."""
        if not distributed.is_main():
            return
        keys = self.read().get("loggers", {})
        self._loggers = open_loggers(self._names, self.folder, keys, self.read_metrics())
        if keys:
            self.update(loggers=keys)

    def update(self, **details: Any) -> None:
        """Add to run.json."""
        if distributed.is_main():  # others do not even read: over a network the file may just be replaced
            self._write({**self.read(), **details})

    def finish(self, status: str, epochs: int, seconds: float, peak_memory_mb: int) -> None:
        """Close run.json; `seconds` add up over the times that a run was resumed."""
        if not distributed.is_main():
            return
        seconds = round(self.read().get("seconds", 0) + seconds, 1)
        self.update(status=status, epochs=epochs, seconds=seconds, peak_memory_mb=peak_memory_mb)
        for logger in self._loggers:
            logger.close()

    def read(self) -> dict[str, Any]:
        """The content of run.json; empty if there is no such file. Raises `InputError` if it is damaged."""
        return parse_record(self._record, _read_text(self._record)) if self._record.is_file() else {}

    def _write(self, record: dict[str, Any]) -> None:
        _replace(self._record, json.dumps(record, indent=2) + "\n")

    def metrics(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, and hand it to the loggers."""
        if not distributed.is_main():
            return
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for logger in self._loggers:
            logger.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.folder)

    def keep_epochs(self, n: int) -> None:
        """Drop the metrics of epochs after the first `n`: a killed run may have written what it did not save."""
        if not distributed.is_main():
            return
        lines = [line for line in self.read_metrics() if line["epoch"] <= n]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        _replace(self._metrics, text)


def _replace(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that was cut off is ignored. Raises `InputError` if it is damaged."""
    path = folder / "metrics.jsonl"
    *lines, rest = (_read_text(path) if path.is_file() else "").split("\n")
    metrics = [parse_line(path, n, line) for n, line in enumerate(lines, 1)]
    with contextlib.suppress(InputError):  # of a run that was killed while it wrote, the last line may end anywhere
        metrics.append(parse_line(path, len(lines) + 1, rest))
    return metrics


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}; restore a copy of it, or remove it") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_state() -> str | None:
    """The commit that picie runs from, with "+changes" if files differ from it; None for an installed package."""
    here = Path(__file__)
    commands = (["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty=+changes", "--abbrev=12"])
    git, text = ("git", "--no-optional-locks", "-C", str(here.parent)), ""
    for command in commands:  # the first fails where picie lies in somebody's checkout without being part of it
        try:
            done = subprocess.run([*git, *command], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode != 0:
            return None
        text = done.stdout.strip()
    return text
