"""A dataset's folder: that it is there, where its parts may lie, which splits are meant, and the parts as they are reported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from picie.data.base import MissingSplitError
from picie.data.images import open_image
from picie.errors import InputError, nearest

DATASET_FOLDER = "the folder that holds the dataset"
"""What is wanted where a dataset's name is given already."""


@dataclass(frozen=True)
class Part:
    """One part of a dataset's folder, for `picie data check`.

    Attributes:
        name: what it is.
        where: where it was looked for, below the root.
        found: how many of it there are, 0 if it is missing.
        complete: how many the full dataset has; None where that is not known.
        needed: whether training on "train" or scoring on "val" is impossible without it.
        use: what it is for, or how to get it.
    """

    name: str
    where: str
    found: int
    complete: int | None
    needed: bool
    use: str


class ImageFiles:
    """What datasets whose images are files have in common.

    Attributes:
        paths: the image files.
    """

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        """The image, RGB. Raises `UnreadableImageError`."""
        return open_image(self.paths[index])


def existing_folder(root: str | Path, wanted: str = "a folder of images or a name from `picie list datasets`") -> Path:
    """`root` as a path. Raises `InputError`, which says what is `wanted`, unless it is a folder."""
    path = Path(root)
    if not path.exists():
        raise InputError(f"{root}: no such folder; give {wanted}")
    if not path.is_dir():
        raise InputError(f"{root}: is a file; give the folder that holds the images")
    return path


def first_folder(root: Path, places: Sequence[str]) -> Path:
    """The first of `places`, paths below `root`, that is a folder; the first of all where none is."""
    paths = [root / place for place in places]
    return next((path for path in paths if path.is_dir()), paths[0])


def split_names(split: str, valid: Collection[str], where: Path) -> list[str]:
    """The splits that `split` joins: "train+val" is the images of both.

    >>> split_names("train+val", ["test", "train", "val"], Path("data"))
    ['train', 'val']

    Raises:
        MissingSplitError: one that is not among `valid`, those of the folder `where`.
    """
    names = split.split("+")
    for name in names:
        if name not in valid:
            raise MissingSplitError(f"{where}: no split {name!r}; {nearest(name, valid)}")
    return names


def folder_part(root: Path, name: str, places: Sequence[str], ending: str, complete: int, needed: bool, use: str) -> Part:
    """The part that is the files of some ending below the first of `places` that is there; see `Part` and `first_folder`."""
    folder = first_folder(root, places)
    found = sum(1 for path in folder.rglob(f"*{ending}") if not path.name.startswith("."))
    where = folder.relative_to(root).as_posix() if found else " or ".join(places)
    return Part(name, where, found, complete, needed, use)
