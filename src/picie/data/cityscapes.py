"""Cityscapes: street scenes as 27 or 19 classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from picie.data.base import ClassMap, MissingSplitError
from picie.data.cityscapes_classes import LAST_ID, all_labels, train_id_labels
from picie.data.images import open_label_of
from picie.data.label_statistics import LabelStatistics
from picie.data.labels import summarise_labels, to_classes
from picie.data.layout import ImageFiles, Part, count_files, existing_folder, first_folder, split_names
from picie.data.search import find_images
from picie.errors import InputError

_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
_COMPLETE = {"train": 2_975, "val": 500, "test": 1_525, "train_extra": 19_998}
_LABELLED = ("train", "val")  # labels of test are not public, those of train_extra are coarse


class Cityscapes(ImageFiles):
    """Base of the Cityscapes datasets.

    A split is a folder of leftImg8bit, or several: test+train_extra.

    Args:
        root: the dataset's folder, with the layout `tree`.
        split: train, val, test, train_extra, or several joined with "+".

    Raises:
        InputError: no such folder or split, or no image in it.
    """

    tree: ClassVar[str] = """
    ROOT/leftImg8bit/{train,val,test,train_extra}/CITY/*_leftImg8bit.png
    ROOT/gtFine/{train,val}/CITY/*_gtFine_labelIds.png    or below ROOT/annotations/gtFine/ or ROOT/annotations/"""

    _labels: ClassVar[Callable[[], tuple[ClassMap, np.ndarray]]]

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.root = existing_folder(root)
        self._images = self.root / "leftImg8bit"
        if not self._images.is_dir():
            raise MissingSplitError(f"{self._images}: no such folder; it must hold train/, val/ and so on, with the images")
        names = split_names(split, [path.name for path in self._images.iterdir() if path.is_dir()], self._images)
        self.paths = sorted({path for name in names for path in self._split_images(name)})
        self.classes: ClassMap | None = None
        self.label_statistics = LabelStatistics()
        if all(first_folder(self.root, _label_places(name)).is_dir() for name in names):
            self.classes, self._lookup = type(self)._labels()

    def _split_images(self, split: str) -> list[Path]:
        paths = [path for path in find_images(self._images / split) if path.name.endswith(_IMAGE)]
        if not paths:
            raise InputError(f"{self._images / split}: no *{_IMAGE} in it or below it; put the images there")
        return paths

    def name(self, index: int) -> str:
        """E.g. "val/lindau/lindau_000000_000019_leftImg8bit.png"."""
        return self.paths[index].relative_to(self._images).as_posix()

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8, classes or 255.

        Raises `InputError` if the label is missing, invalid or of another size.
        """
        path = self.label_path(index)
        if self.classes is None:
            raise InputError(f"{path}: no such file, and the split has no labels; evaluation needs gtFine there")
        stored = open_label_of(self.paths[index], path)
        self.label_statistics.add(stored, path)
        return to_classes(stored, self._lookup, LAST_ID, path)

    def label_summary(self) -> tuple[dict[str, Any], list[str]]:
        """Summary of the labels read so far, and warnings; see `summarise_labels`."""
        return summarise_labels("cityscapes", self._lookup, self.label_statistics)

    def label_path(self, index: int) -> Path:
        """Expected path of the label of an image."""
        split, *cities, file = self.paths[index].relative_to(self._images).parts
        return first_folder(self.root, _label_places(split)).joinpath(*cities, file.removesuffix(_IMAGE) + _LABEL)

    @classmethod
    def parts(cls, root: Path) -> list[Part]:
        """The parts of the dataset, as found in `root`."""
        parts = []
        for split, total in _COMPLETE.items():
            needed = split in _LABELLED
            use = f"the split {split}" if needed else "training images of the published recipe, test+train_extra"
            where, count = count_files(root, [f"leftImg8bit/{split}"], _IMAGE)
            parts.append(Part(f"images of {split}", where, count, total, needed, use))
        for split in _LABELLED:
            needed = split == "val"
            use = "for evaluation" if needed else "for evaluation on train+val, as in the paper"
            where, count = count_files(root, _label_places(split), _LABEL)
            parts.append(Part(f"labels of {split}", where, count, _COMPLETE[split], needed, use))
        return parts


class Cityscapes27(Cityscapes):
    """Cityscapes (needs data.root), the 27 classes of label ids 7 to 33, as in the paper."""

    _labels = staticmethod(all_labels)


class Cityscapes19(Cityscapes):
    """Cityscapes (needs data.root), the 19 classes of the official benchmark."""

    _labels = staticmethod(train_id_labels)


def _label_places(split: str) -> tuple[str, ...]:
    """Possible folders of a split's label maps: official, and as used by the authors of PiCIE."""
    return f"gtFine/{split}", f"annotations/gtFine/{split}", f"annotations/{split}"
