"""The built-in dataset `scenes`: small procedural landscapes and streets with exact labels."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from picie.data.base import ClassMap
from picie.data.scenes.canvas import develop
from picie.data.scenes.composition import compose
from picie.data.scenes.winter import snow
from picie.errors import InputError, nearest
from picie.runtime.atomic_write import clear_partials, is_partial, write_atomically
from picie.runtime.output_paths import write_text

CLASSES = ClassMap(
    names=("sky", "cloud", "building", "road", "tree", "grass", "water", "car"),
    colors=("#74b9ee", "#eef1f6", "#c0674a", "#6e6a78", "#1f7a45", "#a4cf5b", "#2456b3", "#f2b32a"),
)
"""The eight classes of `scenes`, in label order."""
SPLITS = {"train": 240, "val": 60, "winter": 60}
"""The splits of `scenes` and their default number of images.

"winter" has a season, a light and colours that the others lack, to score on unlike images.
"""


def scene(seed: int, index: int, split: str = "train") -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Paint one scene; a pure function of its arguments.

    Args:
        seed: seed of the dataset, at least 0.
        index: index of the scene, at least 0.
        split: "train", "val" or "winter"; no scene is in two of them.

    Returns:
        The image, (160, 240, 3) uint8, and its label map, (160, 240) uint8 with values 0..7.

    Raises:
        InputError: an unknown split, or a negative seed or index.
    """
    if split not in SPLITS:
        raise InputError(f"scenes: unknown split {split!r}; {nearest(split, SPLITS)}")
    if seed < 0 or index < 0:
        raise InputError(f"scenes: seed = {seed} and index = {index} must both be at least 0")
    # numpy pads keys with zeros, so only a nonzero third key separates other splits from train
    rng = np.random.default_rng([seed, index, *[list(SPLITS).index(split)] * (split != "train")])
    canvas = compose(rng)
    if split == "winter":
        snow(canvas, rng)
    return develop(canvas, rng), canvas.label


class Scenes:
    """Built-in outdoor scenes, generated on demand, with exact labels; needs no folder.

    Attributes:
        classes: `CLASSES`.
    """

    classes: ClassMap | None = CLASSES

    def __init__(self, split: str = "train", seed: int = 0, n: int | None = None) -> None:
        """Open a split.

        Args:
            split: "train", "val" or "winter".
            seed: seed of the dataset, at least 0.
            n: number of images, at least 1; by default 240 for "train" and 60 for the others.

        Raises:
            InputError: an unknown split, a negative seed, or n below 1.
        """
        if split not in SPLITS:
            raise InputError(f"scenes: unknown split {split!r}; {nearest(split, SPLITS)}")
        if seed < 0:
            raise InputError(f"scenes: seed = {seed} must be at least 0")
        if n is not None and n < 1:
            raise InputError(f"scenes: n = {n} must be at least 1")
        self.split, self.seed, self._n = split, seed, SPLITS[split] if n is None else n

    def __len__(self) -> int:
        return self._n

    def name(self, index: int) -> str:
        """The scene's name, e.g. "scene_0007.png"."""
        return f"scene_{self._valid(index):04d}.png"

    def image(self, index: int) -> Image.Image:
        """The picture, mode RGB, 240 x 160."""
        return Image.fromarray(scene(self.seed, self._valid(index), self.split)[0])

    def label(self, index: int) -> npt.NDArray[np.uint8]:
        """The label map, (160, 240) uint8 with values 0..7."""
        return scene(self.seed, self._valid(index), self.split)[1]

    def _valid(self, index: int) -> int:
        if not 0 <= index < self._n:
            raise IndexError(f"scenes: index {index} is outside 0..{self._n - 1}")
        return index


_FILE = re.compile(r"(images|labels)/(train|val)/scene_\d{4,}\.png")


def _toml() -> str:
    names = ", ".join(f'"{n}"' for n in CLASSES.names)
    colors = ", ".join(f'"{c}"' for c in CLASSES.colors)
    return f"ignore = {CLASSES.ignore}\nnames = [{names}]\ncolors = [{colors}]\n"


def _refuse_foreign(root: Path) -> None:
    """Raise `InputError` if `root` contains files other than those that `write` wrote."""
    if not root.exists():
        return
    if not root.is_dir():
        raise InputError(f"{root}: is a file; give a folder to write the scenes to")
    files = [p for p in root.rglob("*") if (p.is_symlink() or not p.is_dir()) and not is_partial(p)]
    toml = root / "classes.toml"
    foreign = [p for p in files if p != toml and not _FILE.fullmatch(p.relative_to(root).as_posix())]
    if files and (not toml.is_file() or toml.read_text(encoding="utf-8", errors="replace") != _toml()):
        foreign = foreign or [toml if toml in files else files[0]]
    if foreign:
        raise InputError(f"{root}: contains {foreign[0].relative_to(root)}, which is not part of scenes; give an empty folder")


def write(root: Path, n_train: int = 240, n_val: int = 60, seed: int = 0) -> None:
    """Write the dataset as a labelled folder: images/, labels/ and classes.toml.

    Images are RGB PNGs, (160, 240, 3) uint8; labels are palette PNGs whose index is the class,
    0..7. Scenes that an earlier call wrote to `root` are replaced.

    Args:
        root: the folder; created if it does not exist.
        n_train: number of scenes in "train", at least 1.
        n_val: number of scenes in "val", at least 1.
        seed: seed of the dataset, at least 0.

    Raises:
        InputError: `root` contains files of something else, or a number is out of range.
    """
    splits = [Scenes("train", seed, n_train), Scenes("val", seed, n_val)]
    _refuse_foreign(root)
    root.mkdir(parents=True, exist_ok=True)
    # write this file first, so that an interrupted call can be repeated
    clear_partials(root)
    write_text(root / "classes.toml", _toml())
    palette = [int(c[i : i + 2], 16) for c in CLASSES.colors for i in (1, 3, 5)]
    for data in splits:
        folders = [root / kind / data.split for kind in ("images", "labels")]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for i in range(len(data)):
            picture, classes = scene(seed, i, data.split)
            _save(Image.fromarray(picture), folders[0] / data.name(i))
            index = Image.fromarray(classes, "P")
            index.putpalette(palette)
            _save(index, folders[1] / data.name(i))


def _save(image: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: image.save(file, "PNG", compress_level=1))
