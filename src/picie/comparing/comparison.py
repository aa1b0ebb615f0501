"""`picie compare`: runs that differ in their seed alone become a group; what sets groups apart, and what that does to scores.

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

from picie.comparing.run_records import Run, find_runs
from picie.comparing.significance import Difference, Spread, differences, untestable
from picie.errors import InputError, nearest

SCORES = ("accuracy", "miou")
LABEL_FREE = ("loss", "inertia", "imbalance")  # what a run without labels has to show


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        name: for people.
        runs: all of them.
        counted: those whose last epoch counts: finished, and each seed once.
    """

    name: str
    runs: tuple[Run, ...]
    counted: tuple[Run, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What its runs share."""
        return self.runs[0].settings

    @property
    def protocols(self) -> set[str]:
        """How its runs are scored, in words; one, unless they are of different versions of picie; none without scores."""
        return {run.last["protocol"] for run in self.counted if "protocol" in run.last}

    def spread(self, key: str) -> Spread:
        """A number of the last epoch over the seeds."""
        values = (run.value(key) for run in self.counted)
        return Spread(tuple(value for value in values if value is not None))

    @property
    def seconds(self) -> float | None:
        """Median time of an epoch."""
        times = [sum(line["seconds"].values()) for run in self.counted for line in run.lines if "seconds" in line]
        return statistics.median(times) if times else None


@dataclass(frozen=True)
class Verdict:
    """What can be said of two groups under one score.

    Attributes:
        first: the one group's name.
        second: the other's.
        score: "accuracy" or "miou".
        difference: the test, or None where there can be none.
        words: the verdict, or why there is none.
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
        groups: in the order of the runs given.
        differs: "section.key" -> a value for each group, of what is not the same in all.
        verdicts: one for each pair of groups that is tested and each score, where there are any scores.
        notes: what must be known before the scores are read, a line each.
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
        """Plain values for JSON."""
        return {
            "groups": [_group_dict(group) for group in self.groups],
            "differs": self.differs,
            "verdicts": [
                {"first": v.first, "second": v.second, "score": v.score, "verdict": v.words}
                | ({} if v.difference is None else {**vars(v.difference), "beyond_noise": v.difference.beyond_noise})
                for v in self.verdicts
            ],
            "notes": self.notes,
        }


def _group_dict(group: Group) -> dict[str, Any]:
    spreads = {key: group.spread(key) for key in (*SCORES, *LABEL_FREE)}
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
        paths: their folders; a folder that holds runs stands for all of them.
        names: a group's name by the folder of its first run; none: from the folders' names.
        against: the name of the one group that the others are tested against; none: every pair is tested.

    Raises:
        InputError: a folder without a run, or no group of that name.
    """
    members: list[list[Run]] = []
    for run in (Run.read(path) for path in find_runs(paths)):
        alike = (group for group in members if group[0].settings == run.settings and group[0].same_images(run))
        group = next(alike, None)
        if group is None:
            members.append([run])
        else:
            group.append(run)
    titles = _titles([runs[0].path for runs in members], names or {})
    groups = tuple(Group(title, tuple(runs), _counted(runs)) for title, runs in zip(titles, members, strict=True))
    keys = [key for key in groups[0].settings if len({json.dumps(g.settings.get(key)) for g in groups}) > 1]
    differs = {key: [g.settings.get(key) for g in groups] for key in keys}
    found = Comparison(groups, differs)
    if against is not None and against not in titles:
        raise InputError(f"--against: no setting {against!r}; {nearest(against, titles)}")
    if found.scored:
        pairs = [(a, b) for a, b in combinations(groups, 2) if against in (None, a.name, b.name)]
        pairs = [(b, a) if b.name == against else (a, b) for a, b in pairs]
        found.verdicts.extend(verdict for score in SCORES for verdict in _verdicts(pairs, score))
    found.notes.extend(_notes(found))
    return found


def _titles(first: Sequence[Path], names: Mapping[Path, str]) -> list[str]:
    """A name for each group, by its first run: as told, or the folder's name without its seed; numbered where it recurs."""
    titles: list[str] = []
    for path in first:
        own = path.resolve()
        seeded = re.fullmatch(r"seed-\d+", own.name)
        title = names.get(path) or (own.parent.name if seeded else re.sub(r"[-_]s(eed)?[-_]?\d+(-\d+)?$", "", own.name))
        again = sum(re.fullmatch(re.escape(title) + r"( \(\d+\))?", other) is not None for other in titles)
        titles.append(f"{title} ({again + 1})" if again else title)
    return titles


def _counted(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs that are finished, one of each seed: a repetition is no further evidence."""
    seeds: dict[int, Run] = {}
    for run in runs:
        if run.finished:
            seeds.setdefault(run.config.seed, run)
    return tuple(seeds.values())


def _incomparable(first: Group, second: Group) -> str | None:
    """Why the scores of two groups cannot be compared whatever they are, in words; None if they can."""
    if first.protocols and second.protocols and len(first.protocols | second.protocols) > 1:
        return "not comparable: different protocols"
    if not first.runs[0].same_images(second.runs[0]):
        return "not comparable: other images"
    return None


def _verdicts(pairs: Sequence[tuple[Group, Group]], score: str) -> Iterator[Verdict]:
    """One of each pair of groups, under one score."""
    spreads = [(first.spread(score), second.spread(score)) for first, second in pairs]
    obstacles = [_incomparable(*pair) or untestable(*spread) for pair, spread in zip(pairs, spreads, strict=True)]
    testable = [spread for spread, obstacle in zip(spreads, obstacles, strict=True) if obstacle is None]
    tested = iter(differences(testable)) if testable else iter(())
    for (first, second), obstacle in zip(pairs, obstacles, strict=True):
        difference = None if obstacle else next(tested)
        words = obstacle or ("beyond noise" if difference is not None and difference.beyond_noise else "within noise")
        yield Verdict(first.name, second.name, score, difference, words)


def _notes(comparison: Comparison) -> Iterator[str]:
    """What must be known before the scores are read."""
    groups = comparison.groups
    for run in (run for group in groups for run in group.runs if not run.finished):
        status, done = run.record.get("status", "without a record"), run.last.get("epoch", 0)
        yield f"left out, not finished: {run.path} ({status}, {done} of {run.config.train.epochs} epochs)"
    for group in groups:
        for run in group.runs:
            if run.finished and run not in group.counted:
                yield f"left out, seed {run.config.seed} is there already: {run.path}"
    epochs = comparison.differs.get("train.epochs")
    if epochs:
        yield "different numbers of epochs: " + ", ".join(f"{g.name} {n}" for g, n in zip(groups, epochs, strict=True))
    if len(set().union(*(group.protocols for group in groups))) > 1:
        told = (f"{group.name}: {protocol}" for group in groups for protocol in sorted(group.protocols))
        yield "scores under different protocols are not comparable: " + " | ".join(told)
    if any(not groups[0].runs[0].same_images(group.runs[0]) for group in groups):
        yield "not all runs trained on the same images: their scores are not comparable"
    versions = {str(run.record.get("versions", {}).get("picie")) for group in groups for run in group.counted}
    if len(versions) > 1:
        yield f"trained by different versions of picie: {', '.join(sorted(versions))}"
    if comparison.groups and not comparison.scored:
        yield "no scores: the runs have no labels. Losses under different settings measure different things, so no verdict"
    elif len(groups) == 1:
        yield "one setting: nothing to compare it with"
