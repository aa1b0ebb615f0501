"""COCO-Stuff: the photos of COCO with things and stuff, as 27, 15, 12 or 171 classes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from picie.data.base import ClassMap, MissingSplitError
from picie.data.cocostuff_classes import FINE, coarse_labels, fine_labels
from picie.data.cocostuff_mapping import FILE_NAME, fine_to_coarse
from picie.data.images import find_images, open_label_of
from picie.data.labels import to_classes
from picie.data.layout import DATASET_FOLDER, ImageFiles, Part, existing_folder, first_folder, folder_part, split_names
from picie.errors import InputError

FOLDERS = {"train": "train2017", "val": "val2017"}
"""The folder of images that each curated split is chosen from."""

PUBLISHED = {"train": 49_629, "val": 2_175}
"""How many images the published curated lists have."""

_COMPLETE = {"train": 118_287, "val": 5_000}


class CocoStuff(ImageFiles):
    """COCO-Stuff, whatever its classes. The splits train and val are the curated lists, train2017 and val2017 all images.

    Args:
        root: the folder, see `tree`.
        split: one of the four, or several joined with "+".

    Raises:
        InputError: no such folder or split, no curated list for it, or a list with images that are not there.
    """

    tree: ClassVar[str] = """
    ROOT/images/{train,val}2017/*.jpg         or ROOT/{train,val}2017/
    ROOT/annotations/{train,val}2017/*.png    or ROOT/stuffthingmaps/{train,val}2017/
    ROOT/curated/{train,val}2017/Coco164kFull_Stuff_Coarse_7.txt
    ROOT/fine_to_coarse_dict.pickle"""

    _kept: ClassVar[str] = ""  # "things" or "stuff" where the others are ignored

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.root = existing_folder(root, DATASET_FOLDER)
        names = split_names(split, (*FOLDERS, *FOLDERS.values()), self.root)
        self.paths = sorted({path for name in names for path in _split_images(self.root, name)}, key=_name)
        labelled = all(label_folder(self.root, path).is_dir() for path in {path.parent.name for path in self.paths})
        self.classes: ClassMap | None = None
        if labelled:
            self.classes, self._lookup = self._labels()

    def _labels(self) -> tuple[ClassMap, np.ndarray]:
        """Classes and lookup table."""
        return coarse_labels(self._kept, fine_to_coarse(self.root))

    def name(self, index: int) -> str:
        """E.g. "val2017/000000000139.jpg"."""
        return _name(self.paths[index])

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8, classes or 255. Raises `InputError` for a label that is missing, of another size, or no label."""
        path = self.label_path(index)
        if self.classes is None:
            raise InputError(f"{path.parent}: no such folder; for scores, put the label maps there")
        return to_classes(open_label_of(self.paths[index], path), self._lookup, len(FINE) - 1, path)

    def label_path(self, index: int) -> Path:
        """Where the label of an image is looked for."""
        image = self.paths[index]
        return label_folder(self.root, image.parent.name) / f"{image.stem}.png"

    @classmethod
    def parts(cls, root: Path) -> list[Part]:
        """What `root` holds of the dataset."""
        found = []
        for split, folder in FOLDERS.items():
            total, curated = _COMPLETE[split], list_path(root, split)
            listed = len(curated.read_text("utf-8", "replace").split()) if curated.is_file() else 0
            use, where = f"the split {split} is chosen from them", curated.relative_to(root).as_posix()
            how = f"chooses the images of split {split}; picie data curate {root} makes it"
            found += [
                folder_part(root, f"images of {folder}", image_places(folder), ".jpg", total, True, use),
                folder_part(
                    root, f"labels of {folder}", label_places(folder), ".png", total, split == "val", "to score, to curate"
                ),
                Part(f"curated list of {split}", where, listed, PUBLISHED[split], True, how),
            ]
        mapping = int((root / FILE_NAME).is_file())
        return [*found, Part("fine-to-coarse table", FILE_NAME, mapping, 1, False, "picie has the table of its own")]


class CocoStuff27(CocoStuff):
    """COCO-Stuff (needs data.root), the field's 27 classes: 12 of things, 15 of stuff."""


class CocoStuff15(CocoStuff):
    """COCO-Stuff (needs data.root), the 15 classes of stuff alone; things are ignored."""

    _kept = "stuff"


class CocoStuff12(CocoStuff):
    """COCO-Stuff (needs data.root), the 12 classes of things alone; stuff is ignored."""

    _kept = "things"


class CocoStuff171(CocoStuff):
    """COCO-Stuff (needs data.root), the 171 fine classes: 80 things, 91 kinds of stuff."""

    def _labels(self) -> tuple[ClassMap, np.ndarray]:
        return fine_labels()


def image_places(folder: str) -> tuple[str, ...]:
    """Where the images of `folder` may lie, below the root."""
    return f"images/{folder}", folder


def label_places(folder: str) -> tuple[str, ...]:
    """Where the label maps of `folder` may lie, below the root."""
    return f"annotations/{folder}", f"stuffthingmaps/{folder}"


def image_folder(root: Path, folder: str) -> Path:
    """Where the images of `folder`, e.g. "val2017", are."""
    return first_folder(root, image_places(folder))


def label_folder(root: Path, folder: str) -> Path:
    """Where the label maps of `folder` are."""
    return first_folder(root, label_places(folder))


def list_path(root: Path, split: str) -> Path:
    """The curated list of "train" or "val"."""
    return root / "curated" / FOLDERS[split] / "Coco164kFull_Stuff_Coarse_7.txt"


def list_ids(root: Path, split: str) -> list[str]:
    """The ids of a curated list. Raises `InputError` where there is none (`MissingSplitError`), or a line is no id."""
    path = list_path(root, split)
    if not path.is_file():
        option = "data.train_split" if split == "train" else "evaluate.split"
        raise MissingSplitError(
            f"{path}: no such list, which split {split!r} is read from; `picie data curate {root}` makes it, "
            f"and {option}={FOLDERS[split]} takes all images without it"
        )
    ids = path.read_text("utf-8", "replace").split()
    wrong = next((line for line in ids if not (len(line) == 12 and line.isascii() and line.isdigit())), None)
    if wrong is not None or not ids:
        what = "holds no id" if wrong is None else f"{wrong[:40]!r} is no image id"
        raise InputError(f"{path}: {what}; it must have one 12-digit id a line")
    return ids


def folder_images(root: Path, folder: str) -> dict[str, Path]:
    """Image files right in `folder`, e.g. "val2017", by id; none below it has a place for its label. `InputError` if none."""
    path = image_folder(root, folder)
    if not path.is_dir():
        raise MissingSplitError(
            f"{path}: no such folder, which {folder} is read from; see `picie data check cocostuff27 {root}`"
        )
    found = {file.stem: file for file in find_images(path) if file.parent == path}
    if not found:
        raise InputError(f"{path}: no image file in it; put COCO's {folder} there")
    return found


def _split_images(root: Path, split: str) -> list[Path]:
    """The image files of one split."""
    if split not in FOLDERS:
        return list(folder_images(root, split).values())
    ids, images = list_ids(root, split), folder_images(root, FOLDERS[split])
    missing = [i for i in ids if i not in images]
    if missing:
        raise InputError(
            f"{image_folder(root, FOLDERS[split])}: {len(missing):,} of the {len(ids):,} images of the list "
            f"{list_path(root, split)} are not there, the first {missing[0]}.jpg; add them, or list only what is there"
        )
    return [images[i] for i in ids]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
