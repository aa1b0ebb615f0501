"""The records in a run folder: run.json and metrics.jsonl."""

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
_SCORES = ("accuracy", "miou", "protocol")


class RunRecord:
    """The records in a run folder. With several processes only the main process writes.

    Args:
        folder: The run folder.
        loggers: Further destinations of the lines of metrics.jsonl, as in `run.loggers`.
    """

    def __init__(self, folder: Path, loggers: Sequence[str] = ()) -> None:
        self.folder, self._names = folder, loggers
        self._loggers: list[Logger] = []
        self._metrics = folder / "metrics.jsonl"
        self._record = folder / "run.json"

    def start(self, details: dict[str, Any]) -> None:
        """Write run.json: versions, machine, git state and `details`.

        A resumed run keeps its first start time.
        """
        if not distributed.is_main():
            return
        record = self.read()
        record.setdefault("started", time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        record.update(status="running", versions=versions(), git=git_state(), platform=platform.platform(), **details)
        self._write(record)

    def open_loggers(self) -> None:
        """Open the loggers before the first line of a new or resumed run. Raises `InputError`."""
        if not distributed.is_main():
            return
        keys = self.read().get("loggers", {})
        self._loggers = open_loggers(self._names, self.folder, keys, self.read_metrics())
        if keys:
            self.update(loggers=keys)

    def update(self, **details: Any) -> None:
        """Add `details` to run.json."""
        # Others must not read either: on a network drive the file may be replaced meanwhile.
        if distributed.is_main():
            self._write({**self.read(), **details})

    def finish(self, status: str, epochs: int, seconds: float, peak_memory_mb: int) -> None:
        """Mark the run in run.json as ended; `seconds` is added to those of earlier sessions."""
        if not distributed.is_main():
            return
        seconds = round(self.read().get("seconds", 0) + seconds, 1)
        self.update(status=status, epochs=epochs, seconds=seconds, peak_memory_mb=peak_memory_mb)
        for logger in self._loggers:
            logger.close()

    def read(self) -> dict[str, Any]:
        """Return the content of run.json, empty if there is none.

        Raises `InputError` if it is damaged.
        """
        return parse_record(self._record, _read_text(self._record)) if self._record.is_file() else {}

    def _write(self, record: dict[str, Any]) -> None:
        _replace(self._record, json.dumps(record, indent=2) + "\n")

    def metrics(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl and pass it to the loggers."""
        if not distributed.is_main():
            return
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for logger in self._loggers:
            logger.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl."""
        return read_metrics(self.folder)

    def keep_epochs(self, n: int) -> None:
        """Drop metrics after the first `n` epochs.

        A killed run may have written metrics of an epoch that its checkpoint does not hold.
        """
        if not distributed.is_main():
            return
        lines = [line for line in self.read_metrics() if line["epoch"] <= n]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        _replace(self._metrics, text)


def _replace(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl; a truncated last line is ignored.

    Raises `InputError` if it is damaged.
    """
    path = folder / "metrics.jsonl"
    *lines, rest = (_read_text(path) if path.is_file() else "").split("\n")
    metrics = [parse_line(path, n, line) for n, line in enumerate(lines, 1)]
    # The last line may be incomplete if the run was killed while writing.
    with contextlib.suppress(InputError):
        metrics.append(parse_line(path, len(lines) + 1, rest))
    return metrics


def summary(folder: Path) -> dict[str, Any]:
    """Return what the records of a run say about it: its images, epochs and latest scores.

    Empty for a run without records.
    """
    try:
        record, lines = RunRecord(folder).read(), read_metrics(folder)
    except InputError:  # reported by the commands that need the records
        return {}
    latest: dict[str, Any] = next((line for line in reversed(lines) if "protocol" in line), {})
    known = {**{key: record.get(key) for key in ("images", "epochs")}, **{key: latest.get(key) for key in _SCORES}}
    return {key: value for key, value in known.items() if value is not None}


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}; restore a copy of it, or remove it") from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    result = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[name] = importlib.metadata.version(name)
    return result


def git_state() -> str | None:
    """Return the commit of the picie source, or None for an installed package.

    "+changes" is appended if files differ from it.
    """
    here = Path(__file__)
    commands = (["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty=+changes", "--abbrev=12"])
    git, text = ("git", "--no-optional-locks", "-C", str(here.parent)), ""
    # The first command fails if picie is in another repository's checkout without being part of it.
    for command in commands:
        try:
            done = subprocess.run([*git, *command], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode != 0:
            return None
        text = done.stdout.strip()
    return text
