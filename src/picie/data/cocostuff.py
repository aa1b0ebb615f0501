"""COCO-Stuff: the photos of COCO with labels of things and stuff, as 27, 15, 12 or 171 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from picie.data.base import ClassMap, MissingSplitError
from picie.data.cocostuff_classes import FINE, coarse_labels, fine_labels
from picie.data.cocostuff_mapping import FILE_NAME, fine_to_coarse
from picie.data.images import open_label_of
from picie.data.label_statistics import LabelStatistics
from picie.data.labels import summarise_labels, to_classes
from picie.data.layout import DATASET_FOLDER, ImageFiles, Part, count_files, existing_folder, first_folder, split_names
from picie.data.search import find_images
from picie.errors import InputError

FOLDERS = {"train": "train2017", "val": "val2017"}
"""The folder of images from which each curated split is selected."""

PUBLISHED = {"train": 49_629, "val": 2_175}
"""Number of images in the published curated lists."""

_COMPLETE = {"train": 118_287, "val": 5_000}


class CocoStuff(ImageFiles):
    """Base of the COCO-Stuff datasets.

    The splits train and val are the curated lists; train2017 and val2017 are all images.

    Args:
        root: the dataset's folder, with the layout `tree`.
        split: one of the four, or several joined with "+".

    Raises:
        InputError: no such folder or split, no curated list for it, or a listed image is missing.
    """

    tree: ClassVar[str] = """
    ROOT/images/{train,val}2017/*.jpg         or ROOT/{train,val}2017/
    ROOT/annotations/{train,val}2017/*.png    or ROOT/stuffthingmaps/{train,val}2017/
    ROOT/curated/{train,val}2017/Coco164kFull_Stuff_Coarse_7.txt
    ROOT/fine_to_coarse_dict.pickle"""

    _group: ClassVar[str] = ""  # "things" or "stuff" if the other group is ignored

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.root = existing_folder(root, DATASET_FOLDER)
        names = split_names(split, (*FOLDERS, *FOLDERS.values()), self.root)
        self.paths = sorted({path for name in names for path in _split_images(self.root, name)}, key=_name)
        labelled = all(label_folder(self.root, path).is_dir() for path in {path.parent.name for path in self.paths})
        self.classes: ClassMap | None = None
        self.label_statistics = LabelStatistics()
        if labelled:
            self.classes, self._lookup = self._labels()

    def _labels(self) -> tuple[ClassMap, np.ndarray]:
        """Classes and lookup table."""
        return coarse_labels(self._group, fine_to_coarse(self.root))

    def name(self, index: int) -> str:
        """E.g. "val2017/000000000139.jpg"."""
        return _name(self.paths[index])

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8, classes or 255.

        Raises `InputError` if the label is missing, invalid or of another size.
        """
        path = self.label_path(index)
        if self.classes is None:
            raise InputError(f"{path.parent}: no such folder; evaluation needs the label maps there")
        stored = open_label_of(self.paths[index], path)
        self.label_statistics.add(stored, path)
        return to_classes(stored, self._lookup, len(FINE) - 1, path)

    def label_summary(self) -> tuple[dict[str, Any], list[str]]:
        """Summary of the labels read so far, and warnings; see `summarise_labels`."""
        return summarise_labels("cocostuff", self._lookup, self.label_statistics)

    def label_path(self, index: int) -> Path:
        """Expected path of the label of an image."""
        image = self.paths[index]
        return label_folder(self.root, image.parent.name) / f"{image.stem}.png"

    @classmethod
    def parts(cls, root: Path) -> list[Part]:
        """The parts of the dataset, as found in `root`."""
        parts = []
        for split, folder in FOLDERS.items():
            total, curated = _COMPLETE[split], list_path(root, split)
            listed = len(curated.read_text("utf-8", "replace").split()) if curated.is_file() else 0
            where = curated.relative_to(root).as_posix()
            images, labels = (count_files(root, image_places(folder), ".jpg"), count_files(root, label_places(folder), ".png"))
            how = f"selects the images of split {split}; picie data curate {root} creates it"
            parts += [
                Part(f"images of {folder}", *images, total, True, f"the split {split} is selected from them"),
                Part(f"labels of {folder}", *labels, total, split == "val", "for evaluation and curation"),
                Part(f"curated list of {split}", where, listed, PUBLISHED[split], True, how),
            ]
        mapping = int((root / FILE_NAME).is_file())
        return [*parts, Part("fine-to-coarse table", FILE_NAME, mapping, 1, False, "picie has a built-in table")]


class CocoStuff27(CocoStuff):
    """COCO-Stuff (needs data.root), the standard 27 classes: 12 of things, 15 of stuff."""


class CocoStuff15(CocoStuff):
    """COCO-Stuff (needs data.root), the 15 classes of stuff alone; things are ignored."""

    _group = "stuff"


class CocoStuff12(CocoStuff):
    """COCO-Stuff (needs data.root), the 12 classes of things alone; stuff is ignored."""

    _group = "things"


class CocoStuff171(CocoStuff):
    """COCO-Stuff (needs data.root), the 171 fine classes: 80 things, 91 kinds of stuff."""

    def _labels(self) -> tuple[ClassMap, np.ndarray]:
        return fine_labels()


def image_places(folder: str) -> tuple[str, ...]:
    """Possible places of the images of `folder`, below the root."""
    return f"images/{folder}", folder


def label_places(folder: str) -> tuple[str, ...]:
    """Possible places of the label maps of `folder`, below the root."""
    return f"annotations/{folder}", f"stuffthingmaps/{folder}"


def image_folder(root: Path, folder: str) -> Path:
    """The folder with the images of `folder`, e.g. "val2017"."""
    return first_folder(root, image_places(folder))


def label_folder(root: Path, folder: str) -> Path:
    """The folder with the label maps of `folder`."""
    return first_folder(root, label_places(folder))


def list_path(root: Path, split: str) -> Path:
    """Path of the curated list of "train" or "val"."""
    return root / "curated" / FOLDERS[split] / "Coco164kFull_Stuff_Coarse_7.txt"


def list_ids(root: Path, split: str) -> list[str]:
    """The ids of a curated list.

    Raises:
        MissingSplitError: there is no list.
        InputError: it is empty, or a line is not an id.
    """
    path = list_path(root, split)
    if not path.is_file():
        option = "data.train_split" if split == "train" else "evaluate.split"
        raise MissingSplitError(
            f"{path}: no such list, which split {split!r} needs; `picie data curate {root}` creates it, "
            f"and {option}={FOLDERS[split]} uses all images without it"
        )
    ids = path.read_text("utf-8", "replace").split()
    wrong = next((line for line in ids if not (len(line) == 12 and line.isascii() and line.isdigit())), None)
    if wrong is not None or not ids:
        what = "contains no id" if wrong is None else f"{wrong[:40]!r} is not an image id"
        raise InputError(f"{path}: {what}; it must have one 12-digit id per line")
    return ids


def folder_images(root: Path, folder: str) -> dict[str, Path]:
    """Image files directly in `folder`, e.g. "val2017", by id; subfolders are ignored.

    Raises:
        MissingSplitError: there is no such folder.
        InputError: it contains no image.
    """
    path = image_folder(root, folder)
    if not path.is_dir():
        raise MissingSplitError(
            f"{path}: no such folder, which split {folder} needs; see `picie data check cocostuff27 {root}`"
        )
    images = {file.stem: file for file in find_images(path) if file.parent == path}
    if not images:
        raise InputError(f"{path}: no image file in it; put COCO's {folder} there")
    return images


def _split_images(root: Path, split: str) -> list[Path]:
    """The image files of one split."""
    if split not in FOLDERS:
        return list(folder_images(root, split).values())
    ids, images = list_ids(root, split), folder_images(root, FOLDERS[split])
    missing = [i for i in ids if i not in images]
    if missing:
        raise InputError(
            f"{image_folder(root, FOLDERS[split])}: {len(missing):,} of the {len(ids):,} images of the list "
            f"{list_path(root, split)} are missing, the first {missing[0]}.jpg; add them, or remove them from the list"
        )
    return [images[i] for i in ids]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
