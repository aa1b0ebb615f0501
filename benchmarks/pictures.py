"""Pictures for a benchmark where there are none, and many from few."""

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
"""(H, W) of a made-up picture: that of CamVid."""

CLASSES = 11
_COARSE = 12  # nodes of the fields along a side: regions of about 40 pixels
_NOISE = 11.0  # with it, a file has about the 40 kB that a photo of this size has


def write(root: Path, images: int, size: tuple[int, int] = SIZE) -> None:
    """Write a labelled folder of made-up JPEGs: `images` to train on, a quarter of that, at least one, to score.

    Args:
        root: the folder; must not be there.
        images: number of training images.
        size: (H, W) of each in pixels.
    """
    for split, first, n in (("train", 0, images), ("val", images, max(1, images // 4))):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(first, first + n):
            picture, label = _picture(number, size)
            picture.save(root / "images" / split / f"{number:06d}.jpg", quality=90)
            label.save(root / "labels" / split / f"{number:06d}.png", compress_level=1)
    names = json.dumps([f"class {i}" for i in range(CLASSES)])
    (root / "classes.toml").write_text(f"names = {names}\n", "utf-8")


def _picture(number: int, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Regions of one colour each, where one of as many smooth fields is the highest, under grain; and their labels."""
    rng = np.random.default_rng(number)
    label = np.stack([_smooth(rng, size, _COARSE) for _ in range(CLASSES)]).argmax(0).astype(np.uint8)
    grain = _NOISE * np.stack([_smooth(rng, size, max(size) // 2) for _ in range(3)], axis=-1)
    colored = np.array(palette(CLASSES), dtype=np.float32)[label] + grain
    return Image.fromarray(colored.clip(0, 255).astype(np.uint8)), Image.fromarray(label)


def _smooth(rng: np.random.Generator, size: tuple[int, int], nodes: int) -> np.ndarray:
    """`size` float32: normal noise of `nodes` x `nodes`, enlarged."""
    field = Image.fromarray(rng.standard_normal((nodes, nodes), dtype=np.float32))
    return np.asarray(field.resize(size[::-1], Image.Resampling.BILINEAR))


def repeat(paths: Sequence[Path], times: int, root: Path) -> None:
    """Fill the folder `root` with `times` links to each of the image files `paths`, as if they were so many images."""
    for copy in range(times):
        folder = root / f"{copy:03d}"
        folder.mkdir(parents=True)
        for number, path in enumerate(paths):
            (folder / f"{number:06d}{path.suffix}").symlink_to(path.absolute())


def image_paths(dataset: object) -> Sequence[Path]:
    """The files of a dataset's images. Raises `InputError` for a dataset without any."""
    if not isinstance(dataset, ImageFiles):
        raise InputError("bench: DATA must be a dataset of image files; give a folder")
    return dataset.paths
