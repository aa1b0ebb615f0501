"""Runs by their plain records, config.toml, run.json and metrics.jsonl; no network is loaded."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from picie.config import Config, from_dict, read_toml
from picie.errors import InputError
from picie.runtime.run_record import RunRecord, read_metrics

_WITHOUT_EFFECT = ("seed", "data.root", "evaluate.every")  # on a last epoch's mean score; and the section [run]


@dataclass(frozen=True)
class Run:
    """What a run's folder says.

    Attributes:
        path: the folder.
        config: its configuration.
        record: run.json.
        lines: metrics.jsonl.
    """

    path: Path
    config: Config
    record: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]

    @staticmethod
    def read(path: Path) -> Run:
        """The run in `path`. Raises `InputError` where there is none."""
        settings = read_toml(path / "config.toml")
        try:
            return Run(path, from_dict(settings), RunRecord(path).read(), read_metrics(path))
        except InputError as error:
            raise InputError(f"{path / 'config.toml'}: {error}") from error
        except json.JSONDecodeError as error:
            raise InputError(f"{path / 'run.json'}: is damaged; leave this run out") from error

    @property
    def finished(self) -> bool:
        """Whether all its epochs are done."""
        return self.record.get("status") == "finished" and bool(self.lines)

    @property
    def last(self) -> Mapping[str, Any]:
        """The last epoch's line."""
        return self.lines[-1] if self.lines else {}

    def same_images(self, other: Run) -> bool:
        """Whether both trained on the same images: by the hash of their frames, else by their folder."""
        ours, theirs = self.record.get("digest"), other.record.get("digest")
        if ours and theirs and self.config.views.frame_size == other.config.views.frame_size:
            return bool(ours == theirs)
        return (self.config.data.name, self.config.data.root) == (other.config.data.name, other.config.data.root)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Value of each "section.key", of all that may move its scores; the epochs of a finished run are those it has."""
        flat = options_of(self.config)
        if self.finished:  # it may have been gone on with for more than config.toml says
            flat["train.epochs"] = self.last["epoch"]
        return {key: value for key, value in flat.items() if key not in _WITHOUT_EFFECT}

    def value(self, key: str) -> float | None:
        """A number of the last epoch."""
        return _number(self.last, key)

    def curve(self, key: str) -> dict[int, float]:
        """A number by epoch, where it was taken."""
        values = {line["epoch"]: _number(line, key) for line in self.lines}
        return {epoch: value for epoch, value in values.items() if value is not None}


def options_of(config: Config) -> dict[str, Any]:
    """Value of each "section.key" but for the section [run]."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json", exclude={"run"}).items():
        flat |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _number(line: Mapping[str, Any], key: str) -> float | None:
    """A number of an epoch's line, the mean over the views where each has its own."""
    found = line.get(key)
    if isinstance(found, list):
        return statistics.fmean(found) if found else None
    return None if found is None else float(found)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The runs' folders that `paths` stand for, each once. Raises `InputError` where there is none."""
    found: dict[Path, Path] = {}
    for path in paths:
        below = [path] if (path / "config.toml").is_file() else sorted(p.parent for p in path.rglob("config.toml"))
        if not below:
            raise InputError(f"{path}: no run in it (no config.toml); give folders that `picie train` made")
        for run in below:
            found.setdefault(run.resolve(), run)
    return list(found.values())
