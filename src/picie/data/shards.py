"""Shards: pictures in tar files, in the layout of the WebDataset library, read at random."""

from __future__ import annotations

import functools
import io
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from picie.data.base import MissingSplitError
from picie.data.formats import IMAGE_SUFFIXES
from picie.data.label_coding import read_coding
from picie.data.label_statistics import LabelStatistics
from picie.data.layout import EncodedImages, existing_folder
from picie.errors import InputError, nearest

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PATTERN = re.compile(r"\.tar$|\{\d+\.\.\d+\}|[*?]")
_OF_SPLIT = re.compile(r"([A-Za-z]+)[-_.]?\d*\.tar")  # train-000.tar
_JPEG = frozenset({".jpg", ".jpeg"})
_LABELS = (".seg.png", ".label.png", ".mask.png")
_MAX_INDEXED = 2**14  # shards whose indices are kept


def is_pattern(text: str) -> bool:
    """Whether `text` names shards: a tar file, a pattern such as *.tar, or a range {000..009}."""
    return _PATTERN.search(text) is not None


class _Index(NamedTuple):
    """The pictures of one shard, sorted by name.

    Attributes:
        names: (n,) bytes of the members' names.
        places: (n, 4) int64: where the picture begins and its size, and the same of its label; -1
            without one.
    """

    names: np.ndarray
    places: np.ndarray


class Shards(EncodedImages):
    """Pictures in tar files (WebDataset), with or without labels.

    Files whose names agree up to the first dot belong together. Of these the JPEG is the picture,
    or else the first image. Its label map, for scoring, is the file that ends in .seg.png,
    .label.png or .mask.png, or the .png beside a JPEG.

    The headers of all shards are read once. Then any picture is read by its position, so the order
    of training, and resuming, do not depend on the shards.

    Args:
        root: a folder with tar files, or a pattern such as shards/{000..009}.tar or shards/*.tar.
        split: folder of tar files, or first part of their names (train-000.tar), if a folder has
            such; otherwise all shards are used for any split.

    Raises:
        InputError: there is no such shard or split, a shard is not a plain tar file, or no shard
            has a picture.
    """

    tree = """
    ROOT/{train,val}/*.tar            or ROOT/train-000.tar, or any tar files, without evaluation
        0001.jpg 0001.seg.png ...     pictures, and label maps with the same names up to the dot
    ROOT/classes.toml                 names, colors, ignore, values"""

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.root = Path(root)
        self._shards, has_splits = _find(self.root, split)
        base = self.root if self.root.is_dir() else self.root.parent
        self._prefixes = [_prefix(shard, base) for shard in self._shards]
        indices = [_indexed(shard, *_state(shard)) for shard in self._shards]
        counts = [len(index.names) for index in indices]
        if not sum(counts):
            raise InputError(f"{root}: {len(self._shards):,} tar files without a picture (.jpg, .png, ...); give others")
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._indices = indices
        labelled = has_splits and (self.root / "classes.toml").is_file() and any((i.places[:, 2] >= 0).any() for i in indices)
        self._coding = read_coding(self.root / "classes.toml") if labelled else None
        self.classes = None if self._coding is None else self._coding.classes
        self.label_statistics = LabelStatistics()

    def __len__(self) -> int:
        return int(self._first[-1])

    def _place(self, index: int) -> tuple[int, bytes, np.ndarray]:
        """The number of the picture's shard, the member's name, and its row of `_Index.places`."""
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        row = index - int(self._first[shard])
        return shard, bytes(self._indices[shard].names[row]), self._indices[shard].places[row]

    def name(self, index: int) -> str:
        """The shard without its ending, and the name in it, separated by '/'."""
        shard, member, _ = self._place(index)
        return f"{self._prefixes[shard]}/{member.decode('utf-8', 'surrogateescape')}"

    def source(self, index: int) -> str:
        """The shard and the name in it."""
        shard, member, _ = self._place(index)
        return f"{self._shards[shard]}: {member.decode('utf-8', 'replace')}"

    def encoded(self, index: int) -> BinaryIO:
        """The encoded picture."""
        shard, _, place = self._place(index)
        return io.BytesIO(_bytes(self._shards[shard], *place[:2].tolist()))

    def label(self, index: int) -> np.ndarray:
        """(H, W) integers.

        Raises `InputError` if the label is missing, of another size than the picture, or invalid.
        """
        if self._coding is None:
            raise InputError(f"{self.root}: has no labels; evaluation needs label maps in the shards and classes.toml")
        shard, _, place = self._place(index)
        if place[2] < 0:
            raise InputError(f"{self.source(index)}: no label for this picture; add a file that ends in {_LABELS[0]}")
        where = Path(f"{self.source(index)} (label)")
        label = self._coding.read(where, self.label_statistics, io.BytesIO(_bytes(self._shards[shard], *place[2:].tolist())))
        size = self.image(index).size[::-1]
        if label.shape != size:
            raise InputError(f"{where}: {label.shape[1]}x{label.shape[0]}, its picture {size[1]}x{size[0]}; make them the same")
        return label


def _find(root: Path, split: str) -> tuple[list[Path], bool]:
    """The shards of a split, sorted as their names are, and whether they belong to a split."""
    if not root.is_dir() and is_pattern(str(root)):
        return _sorted(shard for text in _expanded(str(root)) for shard in _matching(text)), False
    folder = existing_folder(root, "a folder of tar files, or a pattern such as shards/{000..009}.tar")
    splits: dict[str, list[Path]] = {}
    for shard in sorted(folder.glob("*/**/*.tar")):
        splits.setdefault(shard.relative_to(folder).parts[0], []).append(shard)
    loose = sorted(folder.glob("*.tar"))
    for shard in loose:
        if match := _OF_SPLIT.fullmatch(shard.name):
            splits.setdefault(match[1], []).append(shard)
    if "train" in splits or split in splits:
        if split not in splits:
            raise MissingSplitError(f"{folder}: no split {split!r}; {nearest(split, splits)}")
        return _sorted(splits[split]), True
    if not loose and not splits:
        raise InputError(f"{folder}: no tar file in it or below it; give a folder of tar files")
    return _sorted([*loose, *itertools.chain(*splits.values())]), False


def _sorted(shards: Iterable[Path]) -> list[Path]:
    return sorted(set(shards), key=lambda path: f"{path.with_suffix('').as_posix()}/")


def _prefix(shard: Path, base: Path) -> str:
    name = shard.with_suffix("")
    return (name.relative_to(base) if name.is_relative_to(base) else PurePosixPath(name.name)).as_posix()


def _expanded(text: str) -> Iterator[str]:
    """Expand the ranges of a pattern.

    >>> list(_expanded("{08..10}.tar"))
    ['08.tar', '09.tar', '10.tar']
    """
    match = _RANGE.search(text)
    if match is None:
        yield text
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        yield from _expanded(f"{text[: match.start()]}{number:0{len(match[1])}d}{text[match.end() :]}")


def _matching(text: str) -> Sequence[Path]:
    path = Path(text)
    found = [path] if path.is_file() else []
    if not found and re.search(r"[*?]", text):
        found = list(Path(path.anchor or ".").glob(path.relative_to(path.anchor).as_posix()))
    if not found:
        raise InputError(f"{text}: no such tar file; give a folder of tar files, or a pattern such as shards/{{000..009}}.tar")
    return found


def _state(shard: Path) -> tuple[int, int]:
    state = shard.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=_MAX_INDEXED)  # the splits of a run may be the same shards
def _indexed(shard: Path, size: int, changed: int) -> _Index:
    """Index a shard of this size and time of change."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isreg() and not name.name.startswith("."):
                    stem, dot, ending = name.name.partition(".")
                    samples.setdefault(str(name.with_name(stem)), {})[dot + ending] = member.offset_data, member.size
                tar.members = []  # type: ignore[attr-defined]  # otherwise all headers stay in memory
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{shard}: cannot be read as a tar file ({error}); unpack it if it is compressed") from error
    found = sorted(_pictures(samples))
    names = np.array([name for name, _ in found], dtype=np.bytes_)
    return _Index(names, np.array([place for _, place in found], dtype=np.int64).reshape(-1, 4))


def _pictures(samples: dict[str, dict[str, tuple[int, int]]]) -> Iterator[tuple[bytes, tuple[int, int, int, int]]]:
    """The name and place of the picture of each sample that has one."""
    for key, files in samples.items():
        images = [ending for ending in files if ending.lower() in IMAGE_SUFFIXES]
        jpegs = [ending for ending in images if ending.lower() in _JPEG]
        if not images:
            continue
        picture = (jpegs or images)[0]
        beside = [".png"] if jpegs else []
        label = next((files[ending] for ending in (*_LABELS, *beside) if ending in files), (-1, -1))
        yield f"{key}{picture}".encode("utf-8", "surrogateescape"), (*files[picture], *label)


def _bytes(shard: Path, start: int, size: int) -> bytes:
    with shard.open("rb") as file:
        file.seek(start)
        return file.read(size)
