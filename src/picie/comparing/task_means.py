"""Compares settings by their mean score over several tasks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from picie.comparing.comparison import SCORES, Comparison, Group, Verdict, verdicts
from picie.comparing.probe_scores import PROBES
from picie.comparing.significance import Spread


@dataclass(frozen=True)
class TaskMeans:
    """The scores of settings over tasks.

    Attributes:
        tasks: the comparison of the settings on each task, by the task's name.
        spreads: for each setting and score, the mean over the tasks, one value for each seed that
            was run on all tasks.
        verdicts: tests of these means, one for each tested pair of settings and each score.
    """

    tasks: Mapping[str, Comparison]
    spreads: Mapping[str, Mapping[str, Spread]]
    verdicts: Sequence[Verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "tasks": {name: comparison.to_dict() for name, comparison in self.tasks.items()},
            "mean": {name: {key: list(s.values) for key, s in scores.items()} for name, scores in self.spreads.items()},
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }


def task_means(tasks: Mapping[str, Comparison], against: str | None = None) -> TaskMeans:
    """Average the scores of each setting and seed over the tasks, and test the averages.

    Every task counts the same. A seed that was not run on all tasks is left out, because tasks
    differ in difficulty.

    Args:
        tasks: the comparison on each task; the groups of all tasks have the same names.
        against: setting that the others are tested against; None tests every pair.
    """
    shared = [name for name in _names(tasks) if all(_group(comparison, name) for comparison in tasks.values())]
    spreads = {name: {key: _mean(tasks, name, key) for key in (*SCORES, *PROBES)} for name in shared}
    pairs = [(a, b) for a, b in combinations(shared, 2) if against in (None, a, b)]
    pairs = [(b, a) if b == against else (a, b) for a, b in pairs]
    tested = [
        verdict for key in SCORES for verdict in verdicts([((a, spreads[a][key]), (b, spreads[b][key])) for a, b in pairs], key)
    ]
    return TaskMeans(tasks, spreads, tested)


def _names(tasks: Mapping[str, Comparison]) -> list[str]:
    return list(dict.fromkeys(group.name for comparison in tasks.values() for group in comparison.groups))


def _group(comparison: Comparison, name: str) -> Group | None:
    return next((group for group in comparison.groups if group.name == name), None)


def _mean(tasks: Mapping[str, Comparison], name: str, key: str) -> Spread:
    """The mean of a score over the tasks, for each seed that all tasks have."""
    by_task = []
    for comparison in tasks.values():
        group = _group(comparison, name)
        runs = () if group is None else group.counted
        values = {run.config.seed: run.value(key) for run in runs}
        by_task.append({seed: value for seed, value in values.items() if value is not None})
    seeds = sorted(set.intersection(*(set(values) for values in by_task)))
    return Spread(tuple(statistics.fmean(values[seed] for values in by_task) for seed in seeds))
