"""Folders of images, with or without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from picie.config import read_toml
from picie.data.base import ClassMap, MissingSplitError
from picie.data.images import find_images, open_label_of
from picie.data.layout import ImageFiles, existing_folder
from picie.display.colors import palette, rgb_to_hex
from picie.errors import InputError, nearest

_LABELLED_LAYOUTS = (("images", "labels"), ("images", "annotations"), ("images", "stuffthingmaps"), ("leftImg8bit", "gtFine"))
_KEYS = ("names", "colors", "ignore", "groups")  # of classes.toml


class Folder(ImageFiles):
    """Any folder of images. Labels are optional and used only for evaluation.

    A folder with an `images` folder and a `classes.toml` is labelled: `split` is the name of a
    folder in `images`, and each label is the PNG with the same path in `labels`. Any other folder
    is searched for images and has a single split.

    Args:
        root: the folder.
        split: name of the split in a labelled folder.

    Raises:
        InputError: no such folder or split, no image file in it, or an invalid classes.toml.
    """

    tree = """
    ROOT/images/{train,val}/**.jpg    or any folder of images, without evaluation
    ROOT/labels/{train,val}/**.png    index PNGs with the same names and sizes
    ROOT/classes.toml                 names, colors, ignore"""

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.root = existing_folder(root)
        labelled = (self.root / "classes.toml").is_file() and (self.root / "images").is_dir()
        for images, labels in _LABELLED_LAYOUTS:
            if not labelled and (self.root / images).is_dir() and (self.root / labels).is_dir():
                raise InputError(
                    f"{root}: has {images}/ and {labels}/ but no classes.toml; add it for evaluation, "
                    f"give {self.root / images}, or name the dataset (`picie list datasets`) with data.name=NAME"
                )
        self._images = self.root / "images" / split if labelled else self.root
        self._labels = self.root / "labels" / split
        has_labels = labelled and self._labels.is_dir()
        self.classes = read_classes(self.root / "classes.toml") if has_labels else None
        if not self._images.is_dir():
            splits = [p.name for p in (self.root / "images").iterdir() if p.is_dir()]
            raise MissingSplitError(f"{self.root / 'images'}: no split {split!r}; {nearest(split, splits)}")
        self.paths = find_images(self._images)
        if not self.paths:
            raise InputError(f"{self._images}: no image file in it or below it (.jpg, .png, .tif, ...); give another folder")

    def name(self, index: int) -> str:
        """Path of the image below the split's folder."""
        return self.paths[index].relative_to(self._images).as_posix()

    def label(self, index: int) -> np.ndarray:
        """(H, W) integers.

        Raises `InputError` if the label is missing, of another size or out of range.
        """
        if self.classes is None:
            raise InputError(f"{self.root}: has no labels; evaluation needs images/, labels/ and classes.toml")
        path = self.label_path(index)
        label = open_label_of(self.paths[index], path)
        check_label(label, self.classes, path)
        return label

    def label_path(self, index: int) -> Path:
        """Expected path of the label of an image."""
        return (self._labels / self.name(index)).with_suffix(".png")


def unused_labels(root: Path, split: str) -> str | None:
    """The reason why a folder with a classes.toml has no labels for a split; None for any other folder."""
    used = (root / "images").is_dir() and (root / "labels" / split).is_dir()
    if used or not (root / "classes.toml").is_file():
        return None
    folder, wanted = root, "images" if not (root / "images").is_dir() else "labels"
    if wanted == "labels" and (root / "labels").is_dir():
        folder, wanted = root / "labels", split
    others = sorted(f"{p.name}/" for p in folder.iterdir() if p.is_dir() and p.name != "images")[:8]
    found = f"it has {', '.join(others)}; rename the right one" if others else "add it to be scored"
    return f"{root}: has classes.toml, but {folder} has no folder {wanted}/: {found}"


def check_label(label: np.ndarray, classes: ClassMap, where: str | Path) -> None:
    """Raise `InputError` if `label` (H, W) contains a value that is neither a class nor ignore."""
    wrong = label[((label < 0) | (label >= len(classes))) & (label != classes.ignore)]
    if wrong.size:
        raise InputError(
            f"{where}: label value {int(wrong[0])} is not a class (0..{len(classes) - 1}) and not ignore ({classes.ignore}); "
            "correct the label or classes.toml"
        )


def read_classes(path: Path) -> ClassMap:
    """Read a classes.toml with names and, optionally, colors, ignore and groups.

    Raises `InputError`.
    """
    values = read_toml(path)
    unknown = set(values) - set(_KEYS)
    if unknown:
        key = sorted(unknown)[0]
        raise InputError(f"{path}: unknown key {key!r}; {nearest(key, _KEYS)}")
    names = values.get("names")
    automatic = [rgb_to_hex(color) for color in palette(len(names))] if isinstance(names, list) else []
    lists = {"names": names, "colors": values.get("colors", automatic), "groups": values.get("groups", [])}
    for key, value in lists.items():
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise InputError(f"{path}: {key} must be a list of strings")
    ignore = values.get("ignore", 255)
    if not isinstance(ignore, int) or isinstance(ignore, bool):
        raise InputError(f"{path}: ignore must be an integer, not {ignore!r}")
    try:
        return ClassMap(tuple(names or ()), tuple(lists["colors"]), ignore, tuple(lists["groups"]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
