"""Folders of images, with or without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picie.data.base import MissingSplitError
from picie.data.images import check_label_size
from picie.data.label_coding import LabelCoding, read_coding
from picie.data.label_lookup import LABEL_FOLDERS, LabelLookup
from picie.data.label_statistics import LabelStatistics
from picie.data.layout import ImageFiles, existing_folder
from picie.data.search import find_images, search_photos
from picie.errors import InputError, nearest

_LABELLED_LAYOUTS = (("images", "labels"), ("images", "annotations"), ("images", "stuffthingmaps"), ("leftImg8bit", "gtFine"))


class Folder(ImageFiles):
    """Any folder of images. Labels are optional and used only for evaluation.

    A folder with an `images` folder and a `classes.toml` is labelled: `split` is the name of a
    folder in `images`, and each label is the file with the same path in `labels` (or `masks`,
    `annotations`, ...; see `picie.data.label_lookup`). Any other folder is searched for images and
    has a single split.

    Args:
        root: the folder.
        split: name of the split in a labelled folder; "train+val" joins two.
        include: patterns of images to use; if empty, all photos.
        exclude: patterns of images to leave out.
        label_suffix: text that label names have after the image's name; None: the usual suffixes.

    Attributes:
        why_unlabelled: the reason why a folder with a classes.toml has no labels; None for other
            folders.
        search: what was found, and what is left out.

    Raises:
        InputError: no such folder or split, no image file in it, or an invalid classes.toml.
    """

    tree = """
    ROOT/images/{train,val}/**.jpg    or any folder of images, without evaluation
    ROOT/labels/{train,val}/**.png    label maps with the same names and sizes
    ROOT/classes.toml                 names, colors, ignore, values"""

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        label_suffix: str | None = None,
    ) -> None:
        self.root = existing_folder(root)
        labelled = (self.root / "classes.toml").is_file() and (self.root / "images").is_dir()
        for images, labels in _LABELLED_LAYOUTS:
            if not labelled and (self.root / images).is_dir() and (self.root / labels).is_dir():
                raise InputError(
                    f"{root}: has {images}/ and {labels}/ but no classes.toml; add it for evaluation, "
                    f"give {self.root / images}, or name the dataset (`picie list datasets`) with data.name=NAME"
                )
        splits = [split] if (self.root / "images" / split).is_dir() else split.split("+")
        for name in splits if labelled else ():
            if not (self.root / "images" / name).is_dir():
                raise MissingSplitError(self._no_split(name))
        joined = labelled and len(splits) > 1
        # The names of images are paths below this folder.
        self._images = self.root if not labelled else self.root / "images" / ("" if joined else split)
        unlabelled = [name for name in splits if not self._label_folder(name).is_dir()]
        has_labels = labelled and not unlabelled
        self.coding: LabelCoding | None = read_coding(self.root / "classes.toml") if has_labels else None
        has_classes = (self.root / "classes.toml").is_file()
        self.why_unlabelled = self._reason(unlabelled[0] if unlabelled else split) if has_classes and not has_labels else None
        self.classes = None if self.coding is None else self.coding.classes
        self._lookup = LabelLookup(self._label_folder("" if joined else split), label_suffix)
        self.label_statistics = LabelStatistics()
        self.search = search_photos(self._images, include, exclude)
        self.paths = self.search.images
        if joined:
            self.paths = [path for path in self.paths if path.relative_to(self._images).parts[0] in splits]
        if not self.paths:
            advice = "give another folder"
            if self.search.others[".tar"]:
                advice = f"for pictures in tar files: data.name=webdataset data.root={root}"
            raise InputError(f"{self.search.summary()}; no image file in it or below it (.jpg, .png, ...); {advice}")

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Keep only the images whose names `wanted` accepts. Raises `InputError` if none is left."""
        paths = [path for index, path in enumerate(self.paths) if wanted(self.name(index))]
        if not paths:
            raise InputError(f"{self._images}: data.held_out leaves none of {len(self.paths):,} images to train on or to score")
        self.paths = paths

    def _label_folder(self, split: str) -> Path:
        folders = [self.root / name / split for name in LABEL_FOLDERS]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def _reason(self, split: str) -> str:
        """Why a folder with a classes.toml has no labels for a split."""
        present = next((self.root / name for name in LABEL_FOLDERS if (self.root / name).is_dir()), None)
        if not (self.root / "images").is_dir():
            folder, missing = self.root, "images"
        else:
            folder, missing = (self.root, "labels") if present is None else (present, split)
        others = sorted(f"{p.name}/" for p in folder.iterdir() if p.is_dir() and p.name != "images")[:8]
        advice = f"it has {', '.join(others)}; rename the right one" if others else "add it to be scored"
        return f"{self.root}: has classes.toml, but {folder} has no folder {missing}/: {advice}"

    def _no_split(self, split: str) -> str:
        images = self.root / "images"
        splits = [p.name for p in images.iterdir() if p.is_dir()]
        if splits:
            return f"{images}: no split {split!r}; {nearest(split, splits)}"
        n = len(find_images(images))
        return f"{images}: contains {n:,} images but no folder {split}/; move them to images/{split}/, or give {images}"

    def name(self, index: int) -> str:
        """Path of the image below the split's folder."""
        return self.paths[index].relative_to(self._images).as_posix()

    def label(self, index: int) -> np.ndarray:
        """(H, W) integers.

        Raises `InputError` if the label is missing, of another size or out of range.
        """
        if self.coding is None:
            raise InputError(f"{self.root}: has no labels; evaluation needs images/, labels/ and classes.toml")
        path = self._lookup.find(self.name(index))
        if path is None:
            expected = self.label_path(index)
            raise InputError(f"{expected}: no label for image {self.paths[index]}; {self._lookup.hint(self.name(index))}")
        label = self.coding.read(path, self.label_statistics)
        check_label_size(label, path, self.paths[index])
        return label

    def label_summary(self) -> tuple[dict[str, Any], list[str]]:
        """Summary of the labels read so far, and warnings; see `LabelStatistics`."""
        assert self.coding is not None
        coding, statistics = self.coding, self.label_statistics
        warnings = statistics.warnings(coding.classes.names, coding.values, coding.ignore)
        return statistics.summary([coding.ignore]), warnings

    def label_path(self, index: int) -> Path:
        """Path of the label of an image, or its expected path."""
        suffix = self._lookup.suffix or ""
        expected = self._lookup.folder / f"{Path(self.name(index)).with_suffix('').as_posix()}{suffix}.png"
        return self._lookup.find(self.name(index)) or expected
