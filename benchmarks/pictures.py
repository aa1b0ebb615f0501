"""Generate pictures for a benchmark without data, and repeat existing ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from picie.data.layout import ImageFiles
from picie.display.colors import palette
from picie.errors import InputError

SIZE = (360, 480)
"""(H, W) of a generated picture, as in CamVid."""

CLASSES = 11
_COARSE = 12  # grid points of a random field per side; gives regions of about 40 pixels
_NOISE = 11.0  # makes a file about 40 kB, like a photo of this size


def write(root: Path, images: int, size: tuple[int, int] = SIZE) -> None:
    """Write a labelled folder of generated JPEGs: `images` to train on and a quarter as many (at
    least one) to score.

    Args:
        root: folder to create.
        images: number of training images.
        size: (H, W) of each in pixels.
    """
    for split, first, n in (("train", 0, images), ("val", images, max(1, images // 4))):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(first, first + n):
            photo, label = picture(number, size)
            photo.save(root / "images" / split / f"{number:06d}.jpg", quality=90)
            label.save(root / "labels" / split / f"{number:06d}.png", compress_level=1)
    names = json.dumps([f"class {i}" for i in range(CLASSES)])
    (root / "classes.toml").write_text(f"names = {names}\n", "utf-8")


def picture(number: int, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """A picture of noisy single-colour regions, and its labels.

    Each region belongs to a smooth random field and covers the pixels at which that field is the
    largest.
    """
    rng = np.random.default_rng(number)
    label = np.stack([_smooth(rng, size, _COARSE) for _ in range(CLASSES)]).argmax(0).astype(np.uint8)
    grain = _NOISE * np.stack([_smooth(rng, size, max(size) // 2) for _ in range(3)], axis=-1)
    colored = np.array(palette(CLASSES), dtype=np.float32)[label] + grain
    return Image.fromarray(colored.clip(0, 255).astype(np.uint8)), Image.fromarray(label)


def _smooth(rng: np.random.Generator, size: tuple[int, int], nodes: int) -> np.ndarray:
    """Normal noise on a `nodes` x `nodes` grid, enlarged to `size`; float32."""
    field = Image.fromarray(rng.standard_normal((nodes, nodes), dtype=np.float32))
    return np.asarray(field.resize(size[::-1], Image.Resampling.BILINEAR))


def repeat(paths: Sequence[Path], times: int, root: Path) -> None:
    """Fill the folder `root` with `times` symbolic links to each of the image files `paths`."""
    for copy in range(times):
        folder = root / f"{copy:03d}"
        folder.mkdir(parents=True)
        for number, path in enumerate(paths):
            (folder / f"{number:06d}{path.suffix}").symlink_to(path.absolute())


def image_paths(dataset: object) -> Sequence[Path]:
    """Image files of a dataset. Raises `InputError` if the dataset is not made of files."""
    if not isinstance(dataset, ImageFiles):
        raise InputError("bench: DATA must be a dataset of image files; give a folder")
    return dataset.paths
