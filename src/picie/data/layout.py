"""The folder of a dataset: its existence, the places of its parts, and its splits."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from picie.data.base import MissingSplitError
from picie.data.images import DEFAULT_READING, open_file, read_image
from picie.data.scaling import Reading
from picie.errors import InputError, nearest

DATASET_FOLDER = "the folder that contains the dataset"
"""What `existing_folder` expects as a root if the dataset's name is already given."""


@dataclass(frozen=True)
class Part:
    """One part of a dataset's folder, for `picie data check`.

    Attributes:
        name: what it is.
        where: its place below the root; if it is missing, the places that were searched.
        count: number of files (or list entries); 0 if it is missing.
        complete: that number in the full dataset; None: unknown.
        needed: whether training on "train" or evaluation on "val" is impossible without it.
        use: what it is for, or how to get it.
    """

    name: str
    where: str
    count: int
    complete: int | None
    needed: bool
    use: str


class EncodedImages(ABC):
    """Base of datasets whose images are encoded: files, or parts of files.

    Attributes:
        reading: how they are read.
    """

    reading: Reading = DEFAULT_READING

    @abstractmethod
    def source(self, index: int) -> str:
        """Where the image is, for messages; its ending names the format."""

    @abstractmethod
    def encoded(self, index: int) -> BinaryIO:
        """The encoded image, to be closed by the caller. Raises any exception."""

    def image(self, index: int) -> Image.Image:
        """The image, RGB. Raises `UnreadableImageError`."""
        return read_image(lambda: self.encoded(index), self.source(index), self.reading)


class ImageFiles(EncodedImages):
    """Base of datasets whose images are files.

    Attributes:
        paths: the image files.
    """

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, index: int) -> str:
        return str(self.paths[index])

    def encoded(self, index: int) -> BinaryIO:
        return open_file(self.paths[index])


def existing_folder(root: str | Path, expected: str = "a folder of images or a name from `picie list datasets`") -> Path:
    """`root` as a path.

    Raises `InputError`, whose text says what is `expected`, if it is not a folder.
    """
    path = Path(root)
    if not path.exists():
        raise InputError(f"{root}: no such folder; {_path_hint(str(root)) or f'give {expected}'}")
    if not path.is_dir():
        raise InputError(f"{root}: is a file; give the folder that contains the images")
    return path


def _path_hint(root: str) -> str:
    """Advice about a Windows path or an address; "" for an ordinary path."""
    if match := re.match(r"([A-Za-z]):[\\/](.*)", root):
        rest = match[2].replace("\\", "/")
        return f"under WSL this is /mnt/{match[1].lower()}/{rest}"
    if re.match(r"[A-Za-z][\w+.-]*://", root):
        return "addresses are not supported: download the images to a folder, or mount it"
    return ""


def first_folder(root: Path, places: Sequence[str]) -> Path:
    """The first of `places`, paths below `root`, that is a folder; if none is, the first place."""
    paths = [root / place for place in places]
    return next((path for path in paths if path.is_dir()), paths[0])


def split_names(split: str, valid: Collection[str], where: Path) -> list[str]:
    """Parse a split such as "train+val", which joins the images of both.

    >>> split_names("train+val", ["test", "train", "val"], Path("data"))
    ['train', 'val']

    Raises:
        MissingSplitError: a name is not among `valid`, the splits of the folder `where`.
    """
    names = split.split("+")
    for name in names:
        if name not in valid:
            raise MissingSplitError(f"{where}: no split {name!r}; {nearest(name, valid)}")
    return names


def count_files(root: Path, places: Sequence[str], ending: str) -> tuple[str, int]:
    """`Part.where` and `Part.count` of the files with an ending in the first existing place."""
    folder = first_folder(root, places)
    count = sum(1 for path in folder.rglob(f"*{ending}") if not path.name.startswith("."))
    return (folder.relative_to(root).as_posix() if count else " or ".join(places)), count
