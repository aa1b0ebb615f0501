"""`picie compare`: group runs that differ only in their seed, and compare the settings and scores
of the groups.

Scores are those of the last epoch.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from picie.comparing.probe_scores import PROBES
from picie.comparing.run_records import Run, find_runs
from picie.comparing.significance import Difference, Spread, differences, untestable
from picie.errors import InputError, nearest

SCORES = ("accuracy", "miou")
LABEL_FREE = ("loss", "inertia", "imbalance")  # metrics of runs without labels


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        name: display name.
        runs: all runs.
        counted: the finished runs, one for each seed; only their scores are used.
    """

    name: str
    runs: tuple[Run, ...]
    counted: tuple[Run, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The options that its runs share."""
        return self.runs[0].settings

    @property
    def protocols(self) -> set[str]:
        """The scoring protocols of its runs.

        Empty without scores; more than one only if versions of picie differ.
        """
        return {run.last["protocol"] for run in self.counted if "protocol" in run.last}

    def spread(self, key: str) -> Spread:
        """A metric of the last epoch over the seeds."""
        values = (run.value(key) for run in self.counted)
        return Spread(tuple(value for value in values if value is not None))

    @property
    def seconds(self) -> float | None:
        """Median duration of an epoch; None if it was not recorded."""
        times = [sum(line["seconds"].values()) for run in self.counted for line in run.lines if "seconds" in line]
        return statistics.median(times) if times else None


@dataclass(frozen=True)
class Verdict:
    """The comparison of two groups by one score.

    Attributes:
        first: name of the first group.
        second: name of the second group.
        score: "accuracy" or "miou".
        difference: result of the test, or None if the groups cannot be tested.
        words: the verdict, or the reason why there is none.
    """

    first: str
    second: str
    score: str
    difference: Difference | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        groups: groups, in the order of the given runs.
        differs: maps each "section.key" option that differs to its value in each group.
        verdicts: one for each tested pair of groups and each score; empty without scores.
        notes: remarks that affect how the scores are read.
    """

    groups: tuple[Group, ...]
    differs: dict[str, list[Any]]
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def scored(self) -> bool:
        """Whether any group has scores."""
        return any(group.spread(score).values for group in self.groups for score in SCORES)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "groups": [_group_dict(group) for group in self.groups],
            "differs": self.differs,
            "verdicts": [
                {"first": v.first, "second": v.second, "score": v.score, "verdict": v.words}
                | ({} if v.difference is None else {**vars(v.difference), "significant": v.difference.significant})
                for v in self.verdicts
            ],
            "notes": self.notes,
        }


def _group_dict(group: Group) -> dict[str, Any]:
    spreads = {key: group.spread(key) for key in (*SCORES, *PROBES, *LABEL_FREE)}
    numbers = {
        key: {"mean": s.mean, "deviation": s.deviation, "values": list(s.values)} for key, s in spreads.items() if s.values
    }
    runs = [
        {"path": str(r.path), "seed": r.config.seed, "status": r.record.get("status"), "epochs": r.last.get("epoch", 0)}
        for r in group.runs
    ]
    return {
        "name": group.name,
        "seeds": [run.config.seed for run in group.counted],
        "protocols": sorted(group.protocols),
        **numbers,
        "seconds_per_epoch": group.seconds,
        "runs": runs,
    }


def compare(paths: Iterable[Path], names: Mapping[Path, str] | None = None, against: str | None = None) -> Comparison:
    """Compare runs.

    Args:
        paths: folders of runs, or folders that contain runs.
        names: names of groups, by the folder of their first run; None uses the names of the
            folders.
        against: name of the group that the others are tested against; None tests every pair.

    Raises:
        InputError: a folder contains no run, or there is no group of that name.
    """
    members: list[list[Run]] = []
    for run in (Run.read(path) for path in find_runs(paths)):
        matching = (group for group in members if group[0].settings == run.settings and group[0].same_images(run))
        group = next(matching, None)
        if group is None:
            members.append([run])
        else:
            group.append(run)
    titles = _titles([runs[0].path for runs in members], names or {})
    groups = tuple(Group(title, tuple(runs), _counted(runs)) for title, runs in zip(titles, members, strict=True))
    keys = [key for key in groups[0].settings if len({json.dumps(g.settings.get(key)) for g in groups}) > 1]
    differs = {key: [g.settings.get(key) for g in groups] for key in keys}
    comparison = Comparison(groups, differs)
    if against is not None and against not in titles:
        raise InputError(f"--against: no setting {against!r}; {nearest(against, titles)}")
    if comparison.scored:
        pairs = [(a, b) for a, b in combinations(groups, 2) if against in (None, a.name, b.name)]
        pairs = [(b, a) if b.name == against else (a, b) for a, b in pairs]
        comparison.verdicts.extend(verdict for score in SCORES for verdict in _verdicts(pairs, score))
    comparison.notes.extend(_notes(comparison))
    return comparison


def _titles(first: Sequence[Path], names: Mapping[Path, str]) -> list[str]:
    """Name each group by its first run: the given name, or the folder's name without its seed.

    Duplicates are numbered.
    """
    titles: list[str] = []
    for path in first:
        folder = path.resolve()
        in_setting = re.fullmatch(r"seed-\d+", folder.name)
        without_seed = re.sub(r"[-_]s(eed)?[-_]?\d+(-\d+)?$", "", folder.name)
        title = names.get(path) or (folder.parent.name if in_setting else without_seed)
        earlier = sum(re.fullmatch(re.escape(title) + r"( \(\d+\))?", other) is not None for other in titles)
        titles.append(f"{title} ({earlier + 1})" if earlier else title)
    return titles


def _counted(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The finished runs, one for each seed, because a repeated run is not independent."""
    seeds: dict[int, Run] = {}
    for run in runs:
        if run.finished:
            seeds.setdefault(run.config.seed, run)
    return tuple(seeds.values())


def _incomparable(first: Group, second: Group) -> str | None:
    """The reason why the scores of two groups are not comparable, or None if they are."""
    if first.protocols and second.protocols and len(first.protocols | second.protocols) > 1:
        return "not comparable: different protocols"
    if not first.runs[0].same_images(second.runs[0]):
        return "not comparable: different images"
    return None


def _verdicts(pairs: Sequence[tuple[Group, Group]], score: str) -> Iterator[Verdict]:
    """The verdict on each pair of groups by one score."""
    obstacles = [_incomparable(*pair) for pair in pairs]
    spreads = [((first.name, first.spread(score)), (second.name, second.spread(score))) for first, second in pairs]
    return verdicts(spreads, score, obstacles)


def verdicts(
    pairs: Sequence[tuple[tuple[str, Spread], tuple[str, Spread]]], score: str, obstacles: Sequence[str | None] = ()
) -> Iterator[Verdict]:
    """Yield the verdict on each pair of (name, values of a score).

    Args:
        pairs: the pairs to test.
        score: "accuracy" or "miou".
        obstacles: for each pair, a reason why it cannot be tested, or None; default: none.
    """
    reasons = [why or untestable(a, b) for why, ((_, a), (_, b)) in zip(obstacles or [None] * len(pairs), pairs, strict=True)]
    testable = [(a, b) for ((_, a), (_, b)), why in zip(pairs, reasons, strict=True) if why is None]
    tested = iter(differences(testable)) if testable else iter(())
    for ((first, _), (second, _)), reason in zip(pairs, reasons, strict=True):
        difference = None if reason else next(tested)
        words = reason or ("significant" if difference is not None and difference.significant else "not significant")
        yield Verdict(first, second, score, difference, words)


def _notes(comparison: Comparison) -> Iterator[str]:
    """Remarks that affect how the scores are read."""
    groups = comparison.groups
    for run in (run for group in groups for run in group.runs if not run.finished):
        status, done = run.record.get("status", "no run.json"), run.last.get("epoch", 0)
        yield f"not counted, unfinished: {run.path} ({status}, {done} of {run.config.train.epochs} epochs)"
    for group in groups:
        for run in group.runs:
            if run.finished and run not in group.counted:
                yield f"not counted, another run has seed {run.config.seed}: {run.path}"
    epochs = comparison.differs.get("train.epochs")
    if epochs:
        yield "different numbers of epochs: " + ", ".join(f"{g.name} {n}" for g, n in zip(groups, epochs, strict=True))
    if len(set().union(*(group.protocols for group in groups))) > 1:
        listed = (f"{group.name}: {protocol}" for group in groups for protocol in sorted(group.protocols))
        yield "scores under different protocols are not comparable: " + " | ".join(listed)
    if any(not groups[0].runs[0].same_images(group.runs[0]) for group in groups):
        yield "the runs were not all trained on the same images: their scores are not comparable"
    versions = {str(run.record.get("versions", {}).get("picie")) for group in groups for run in group.counted}
    if len(versions) > 1:
        yield f"trained by different versions of picie: {', '.join(sorted(versions))}"
    if comparison.groups and not comparison.scored:
        yield "no scores, because the runs have no labels; losses of different settings are not comparable"
    elif len(groups) == 1:
        yield "there is only one setting, so nothing is compared"
