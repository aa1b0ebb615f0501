"""The meaning of label maps: classes.toml, stored values and colours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from picie.config import read_toml
from picie.data.base import ClassMap
from picie.data.formats import open_with_pillow
from picie.data.label_statistics import LabelStatistics, from_one, listing
from picie.display.colors import palette, rgb_to_hex
from picie.errors import InputError, nearest

_KEYS = ("names", "colors", "ignore", "groups", "values")  # of classes.toml
_INDEX_MODES = {"L", "P", "1", "I", "I;16", "I;16B", "I;16L"}
_VOID_COLORS = (0x000000, 0xE0E0C0)
_INTERNAL_IGNORE = 255  # -1 is used instead if 255 is a class


@dataclass(frozen=True)
class LabelCoding:
    """How label files become class indices.

    Attributes:
        classes: the classes.
        values: (C,) stored value of each class; None: the class index.
        ignore: stored value of pixels without a class.
        colors: the colours by which RGB label maps are decoded; empty if the user states none.
    """

    classes: ClassMap
    values: tuple[int, ...] | None = None
    ignore: int = 255
    colors: tuple[str, ...] = ()

    def read(self, path: Path, seen: LabelStatistics | None = None, file: BinaryIO | None = None) -> np.ndarray:
        """The label map at `path`, or in `file`, (H, W) integers: classes or `classes.ignore`.

        Raises:
            InputError: the file is not a label map, or has a value or colour without a meaning.
        """
        stored, is_color = read_stored(path, self.colors, self.classes.ignore, file)
        if seen is not None:
            seen.add(self._values_of(stored) if is_color else stored, path)
        return stored if is_color else self._to_classes(stored, path)

    def _values_of(self, indices: np.ndarray) -> np.ndarray:
        """The stored values that would mean `indices`."""
        values = np.array(self.values or range(len(self.classes)))
        ignored = indices == self.classes.ignore
        return np.where(ignored, self.ignore, values[np.where(ignored, 0, indices)])

    def _to_classes(self, stored: np.ndarray, path: Path) -> np.ndarray:
        if self.values is None:
            check_label(stored, self.classes, path)
            return stored
        known = (*self.values, self.ignore)
        wrong = np.setdiff1d(stored, np.array(known))
        if wrong.size:
            raise InputError(
                f"{path}: value {int(wrong[0])} is neither in values ({listing(self.values)}) nor ignore ({self.ignore}); "
                "correct the label or classes.toml"
            )
        classes = np.full(stored.shape, self.classes.ignore, np.int64)
        for index, value in enumerate(self.values):
            classes[stored == value] = index
        return classes


def check_label(label: np.ndarray, classes: ClassMap, where: str | Path) -> None:
    """Raise `InputError` if `label` (H, W) contains a value that is neither a class nor ignore."""
    wrong = label[((label < 0) | (label >= len(classes))) & (label != classes.ignore)]
    if wrong.size:
        present = np.unique(label).tolist()
        advice = "correct the label or classes.toml"
        if len(present) <= len(classes) + 1:
            advice = "if these are the classes, state their values in classes.toml: values = [...]"
        if set(present) - {classes.ignore} <= set(range(len(classes) + 1)):
            advice = f"if the ids count from 1, set ignore = 0 and values = {from_one(len(classes))} in classes.toml"
        raise InputError(
            f"{where}: label value {int(wrong[0])} is not a class (0..{len(classes) - 1}) and not ignore ({classes.ignore}); "
            f"the file has {listing(present)}; {advice}"
        )


def read_coding(path: Path) -> LabelCoding:
    """Read a classes.toml: names and, optionally, colors, ignore, groups and values.

    Raises `InputError` if it is invalid.
    """
    content = read_toml(path)
    unknown = set(content) - set(_KEYS)
    if unknown:
        key = sorted(unknown)[0]
        raise InputError(f"{path}: unknown key {key!r}; {nearest(key, _KEYS)}")
    names = content.get("names")
    automatic = [rgb_to_hex(color) for color in palette(len(names))] if isinstance(names, list) else []
    lists = {"names": names, "colors": content.get("colors", automatic), "groups": content.get("groups", [])}
    for key, value in lists.items():
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise InputError(f"{path}: {key} must be a list of strings")
    ignore = content.get("ignore", 255)
    if not _is_int(ignore):
        raise InputError(f"{path}: ignore must be an integer, not {ignore!r}")
    values = _values(path, content.get("values"), len(names or ()))
    if values is not None and "ignore" in content and ignore in values:
        raise InputError(f"{path}: ignore = {ignore} is also in values; choose another")
    try:
        inner = ignore if values is None else _INTERNAL_IGNORE if len(values) <= _INTERNAL_IGNORE else -1
        classes = ClassMap(tuple(names or ()), tuple(lists["colors"]), inner, tuple(lists["groups"]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if values is not None and ignore in values:
        ignore = -1  # the default, 255, is a class, so no value is ignored
    return LabelCoding(classes, values, ignore, classes.colors if "colors" in content else ())


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _values(path: Path, values: Any, n: int) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not (isinstance(values, list) and all(map(_is_int, values)) and len(values) == len(set(values)) == n):
        raise InputError(f"{path}: values must be a list of {n} different integers, the stored value of each name")
    return tuple(values)


def read_stored(
    path: Path, colors: tuple[str, ...] = (), ignore: int = 255, file: BinaryIO | None = None
) -> tuple[np.ndarray, bool]:
    """Read a label map as stored.

    RGB files with equal channels and files with opaque alpha are read as grey.

    Args:
        path: an image, or a .npy file.
        colors: colours of the classes, by which RGB files are decoded. Black and the border colour
            of Pascal VOC mean `ignore`, unless they are class colours.
        ignore: index of pixels without a class in such files.
        file: an image, already open; `path` is then only its name.

    Returns:
        (H, W) integers, and whether they are class indices that were decoded from colours.

    Raises:
        InputError: the file cannot be read, or contains colours that are not in `colors`.
    """
    try:
        if path.suffix.lower() == ".npy":
            return _checked_array(np.load(path, allow_pickle=False)), False
        with open_with_pillow(file or path) as image:
            mode, stored = image.mode, np.asarray(image)
    except Exception as error:  # a decoder may raise anything for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as a label map ({reason[:200]})") from error
    if mode in _INDEX_MODES:
        return (stored.astype(np.uint8) if mode == "1" else stored), False
    if mode in {"LA", "RGBA"} and (stored[..., -1] == 255).all():
        stored = stored[..., 0] if mode == "LA" else stored[..., :3]
    if stored.ndim == 2 and mode == "LA":
        return stored, False
    if stored.ndim == 3 and stored.shape[2] == 3 and mode in {"RGB", "RGBA"}:
        unknown, indices = _decode_colors(stored, colors, ignore)
        if colors and not unknown:
            return indices, True
        if (stored == stored[..., :1]).all():
            return stored[..., 0], False
        if colors:
            raise InputError(f"{path}: colour {unknown} is not in colors of classes.toml; add it or correct the label")
    advice = "state the colors of the classes in classes.toml, or save it as an index PNG"
    raise InputError(f"{path}: contains colours (mode {mode}), not class indices; {advice}")


def _checked_array(values: np.ndarray) -> np.ndarray:
    if values.ndim != 2 or values.dtype.kind not in "uib":
        raise ValueError(f"an array of {values.dtype} {values.shape}, not of integers (H, W)")
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def _decode_colors(stored: np.ndarray, colors: tuple[str, ...], ignore: int) -> tuple[str, np.ndarray]:
    """A colour without a meaning, or "", and the class indices (H, W) of the colours (H, W, 3)."""
    codes = stored.astype(np.int64) @ (65536, 256, 1)
    table = dict.fromkeys(_VOID_COLORS, ignore)
    table |= {int(color[1:], 16): index for index, color in reversed(list(enumerate(colors)))}
    present = np.unique(codes)
    unknown = [f"#{code:06x}" for code in present.tolist() if code not in table]
    indices = np.array([table.get(code, 0) for code in present.tolist()], np.int64)
    return (unknown or [""])[0], np.asarray(indices[np.searchsorted(present, codes)])
