"""The records of shards, and how they become one predictions.json."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picie.display.colors import hex_to_rgb
from picie.errors import InputError, none_can
from picie.inference.output_folder import SHARDS, OutputFolder, opened_output
from picie.inference.prediction_files import PredictionFiles
from picie.inference.prediction_options import Summary
from picie.inference.prediction_record import Content, MadeBy, Prediction, Record, read_content
from picie.inference.remote_files import Source
from picie.inference.sharding import Shard, fingerprint_of
from picie.runtime.atomic_write import clear_partials
from picie.runtime.progress import log

_NAME = re.compile(r"(\d+)-of-(\d+)\.json")


class ShardContent(Content):
    """The content of a shard's file.

    Attributes:
        files: a fingerprint of the paths of the files of all shards.
        complete: whether every file of the shard has been predicted or skipped.
    """

    files: str
    complete: bool


class ShardRecord(Record):
    """The record of one shard, in a file of its own; several processes write to the folder.

    Args:
        out: the folder of the predictions.
        run: the run's folder, for information.
        made_by: the network and segments that make the predictions.
        shard: which one it is.

    Raises:
        InputError: a record is damaged, or of another run.
    """

    is_shared = True

    def __init__(self, out: OutputFolder, run: str, made_by: MadeBy, shard: Shard) -> None:
        super().__init__(out, run, made_by)  # what was joined earlier
        self.shard, self.files, self.complete = shard, "", False
        self.check_earlier()

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / SHARDS / f"{self.shard.index}-of-{self.shard.count}.json"

    def take_shards(self) -> None:
        """Add what any shard in the folder has predicted, so that no division loses earlier work.

        Raises `InputError` if one was made by another run.
        """
        for file in sorted(_files(self.folder), key=lambda file: file.stat().st_mtime_ns):
            content = _read(file)
            self.check_model(content)
            if content.made_by() == self.made_by:
                self.images |= content.images
            for bands, scale in content.scale.items():
                found = {kind: (low, high) for kind, (low, high) in scale.items()}
                self.scales[bands] = {**found, **self.scales.get(bands, {})}

    def take_part(self, files: Sequence[Source]) -> list[Source]:
        """Keep the earlier predictions of the shard's part of `files` alone, and return that part.

        Predictions of files that were given to this shard once, and are in no part now, stay.
        """
        part, given = self.shard.part(files), set(map(str, files))
        own = _read(self.file).images if self.file.is_file() else {}
        kept = [*(path for path in own if path not in given), *map(str, part)]
        self.images = {path: self.images[path] for path in kept if path in self.images}
        self.files = fingerprint_of(files)
        return part

    def content(self) -> dict[str, Any]:
        return {**super().content(), "files": self.files, "complete": self.complete}


@dataclass(frozen=True)
class _Group:
    """The records of one division of the same files into shards, by the number of the shard."""

    count: int
    shards: Mapping[int, ShardContent]

    def of(self, numbers: Iterable[int]) -> str:
        return ", ".join(f"{number}/{self.count}" for number in numbers)

    @property
    def is_complete(self) -> bool:
        return len(self.shards) == self.count and all(content.complete for content in self.shards.values())

    def what_is_missing(self) -> str:
        missing = [number for number in range(1, self.count + 1) if number not in self.shards]
        unfinished = [number for number, content in sorted(self.shards.items()) if not content.complete]
        parts = [f"{self.of(missing)} missing"] * bool(missing) + [f"{self.of(unfinished)} unfinished"] * bool(unfinished)
        return " and ".join(parts)

    def check_equal(self, out: OutputFolder) -> dict[str, dict[str, tuple[float, float]]]:
        """Return the scales of values that all shards have.

        Raises `InputError` if two were made with other segments or another scale.
        """
        first = min(self.shards)
        scales: dict[str, dict[str, tuple[float, float]]] = {}
        for number, content in sorted(self.shards.items()):
            own = [(bands, kind, (low, high)) for bands, s in content.scale.items() for kind, (low, high) in s.items()]
            same_scales = all(scales.setdefault(bands, {}).setdefault(kind, bounds) == bounds for bands, kind, bounds in own)
            if content.made_by() != self.shards[first].made_by() or not same_scales:
                raise InputError(
                    f"{out}: shards {self.of([first])} and {self.of([number])} differ in their segments or their scale of "
                    "values; repeat `picie predict` for each of them"
                )
        return scales


def gather(out: str | Path) -> Summary:
    """Join the records of all shards in `out` into one predictions.json, as a single run writes it.

    The records of the shards are deleted. Predictions that are in the folder from earlier stay.

    Returns:
        The number of predictions of the shards, and the reasons for the images without one.

    Raises:
        InputError: there is no shard, or one is missing, unfinished or different.
    """
    with opened_output(out) as folder:
        return _gather(folder)


def _gather(out: OutputFolder) -> Summary:
    groups = _groups(out.path)
    if not groups:
        raise InputError(f"{out}: has no records of shards; give the --out folder of `picie predict --shard`")
    newest = next((group for group in reversed(groups) if group.is_complete), groups[-1])
    if not newest.is_complete:
        others = [group for group in groups[:-1] if group.count == newest.count]
        changed = f" ({' and '.join(o.of(sorted(o.shards)) for o in others)} had other files)" if others else ""
        raise InputError(f"{out}: shards {newest.what_is_missing()}{changed}; repeat `picie predict` with their --shard")
    scales = newest.check_equal(out)
    contents = [newest.shards[number] for number in range(1, newest.count + 1)]
    made_by, joined = contents[0].made_by(), dict[str, Prediction]()
    for content in contents:
        joined |= content.images
    skipped = {path: reason for content in contents for path, reason in content.skipped.items()}
    if not joined:
        raise InputError(f"{out}: {none_can(len(skipped), 'image', 'be predicted', min(skipped.values()))}")
    record = Record(out, contents[0].run, made_by)
    earlier = record.images if record.earlier is not None and record.earlier.made_by() == made_by else {}
    for group in groups:
        for content in group.shards.values():
            earlier |= content.images if content.made_by() == made_by else {}
    record.images = {**{path: entry for path, entry in earlier.items() if path not in skipped}, **joined}
    record.skipped = skipped
    record.scales = scales
    _write(record)
    for reason in skipped.values():
        log.warning("skipped: %s", reason)
    return Summary(predicted=len(joined), skipped=skipped)


def _write(record: Record) -> None:
    """Write the record and the legend; delete the shards and what killed processes left."""
    files = PredictionFiles(record, record.made_by.names, [hex_to_rgb(color) for color in record.made_by.colors])
    names = (name for prediction in record.images.values() for name in prediction.files())
    for folder in {(record.folder / name).parent for name in names}:
        if folder.is_dir():
            clear_partials(folder)
    files.begin()
    record.out.delete([f"{SHARDS}/{file.name}" for file in _files(record.folder)])
    shutil.rmtree(record.folder / SHARDS, ignore_errors=True)


def _groups(out: Path) -> list[_Group]:
    """The divisions whose shards are in the folder, the one that was written last at the end."""
    groups: dict[tuple[int, str], dict[int, ShardContent]] = {}
    for file in sorted(_files(out), key=lambda file: -file.stat().st_mtime_ns):
        content = _read(file)
        number, count = _numbers(file)
        groups.setdefault((count, content.files), {})[number] = content
    return [_Group(count, shards) for (count, _), shards in reversed(groups.items())]


def _files(out: Path) -> list[Path]:
    folder = out / SHARDS
    return [file for file in folder.iterdir() if _NAME.fullmatch(file.name)] if folder.is_dir() else []


def _numbers(file: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return int(match[1]), int(match[2])


def _read(file: Path) -> ShardContent:
    return read_content(file, ShardContent)
