"""Read the records of runs: config.toml, run.json and metrics.jsonl. No network is loaded."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from picie.comparing.probe_scores import read_probes
from picie.config import Config, from_dict, read_toml
from picie.errors import InputError
from picie.runtime.run_record import RunRecord, read_metrics

# Options that do not define a setting, because they do not change its expected score. The section
# [run] does not, either.
_WITHOUT_EFFECT = ("seed", "data.root", "evaluate.every")


@dataclass(frozen=True)
class Run:
    """The records of a run.

    Attributes:
        path: the run's folder.
        config: its configuration.
        record: content of run.json.
        lines: content of metrics.jsonl, one mapping for each epoch.
        probes: mIoU of the probes, see `picie.comparing.probe_scores`; empty if not measured.
    """

    path: Path
    config: Config
    record: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    probes: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> Run:
        """Read the run in the folder `path`.

        Raises `InputError` if there is none, or its records are damaged.
        """
        settings = read_toml(path / "config.toml")
        try:
            config = from_dict(settings)
        except InputError as error:
            raise InputError(f"{path / 'config.toml'}: {error}") from error
        return Run(path, config, RunRecord(path).read(), read_metrics(path), read_probes(path))

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.record.get("status") == "finished" and bool(self.lines)

    @property
    def last(self) -> Mapping[str, Any]:
        """The record of the last epoch; empty if there is none."""
        return self.lines[-1] if self.lines else {}

    def same_images(self, other: Run) -> bool:
        """Whether both runs trained on the same images, by the hash of the frames or else by the
        dataset's folder.
        """
        ours, theirs = self.record.get("digest"), other.record.get("digest")
        if ours and theirs and self.config.views.frame_size == other.config.views.frame_size:
            return bool(ours == theirs)
        return (self.config.data.name, self.config.data.root) == (other.config.data.name, other.config.data.root)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Value of each "section.key" option that may affect the scores."""
        flat = options_of(self.config)
        if self.finished:  # a resumed run may have more epochs than config.toml states
            flat["train.epochs"] = self.last["epoch"]
        return {key: value for key, value in flat.items() if key not in _WITHOUT_EFFECT}

    def value(self, key: str) -> float | None:
        """A metric of the last epoch or the score of a probe; None if it was not recorded."""
        return self.probes[key] if key in self.probes else _number(self.last, key)

    def curve(self, key: str) -> dict[int, float]:
        """A metric by epoch, for the epochs that recorded it."""
        values = {line["epoch"]: _number(line, key) for line in self.lines}
        return {epoch: value for epoch, value in values.items() if value is not None}


def options_of(config: Config) -> dict[str, Any]:
    """Value of each "section.key" option, except for the section [run]."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json", exclude={"run"}).items():
        flat |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _number(line: Mapping[str, Any], key: str) -> float | None:
    """A metric of an epoch; the mean over the views if each view has its own value."""
    value = line.get(key)
    if isinstance(value, list):
        return statistics.fmean(value) if value else None
    return None if value is None else float(value)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Find the runs in `paths`, each listed once. Raises `InputError` for a path without a run."""
    runs: dict[Path, Path] = {}
    for path in paths:
        below = [path] if (path / "config.toml").is_file() else sorted(p.parent for p in path.rglob("config.toml"))
        if not below:
            raise InputError(f"{path}: contains no run (no config.toml); give folders that `picie train` made")
        for run in below:
            runs.setdefault(run.resolve(), run)
    return list(runs.values())
