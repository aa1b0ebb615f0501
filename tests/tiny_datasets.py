"""Tiny fake data in the layout of each registered dataset: pictures whose colours go with their labels."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tests.conftest import picture, write_labelled

CURATED = "Coco164kFull_Stuff_Coarse_7.txt"
COCO_IDS = (0, 133, 156, 255)  # person, leaves (plant), sky-other; 133 and 156 are stuff, 0 is not
CITY_IDS = (7, 26, 23, 3)  # road, car, sky; 3 is void


def labelled_picture(seed: int, ids: tuple[int, ...]) -> tuple[Image.Image, Image.Image]:
    """An RGB picture, 64 x 48, and its label map with the first three of `ids`, and the last in two rows at the border."""
    image, label = picture(seed)
    stored = np.array(ids[:3], dtype=np.uint8)[label]
    stored[:2] = ids[3]
    return Image.fromarray(image), Image.fromarray(stored)


def write_coco(root: Path, n: dict[str, int] | None = None) -> Path:
    """COCO-Stuff: 4 + 2 images, of which all but the last of each folder are in the curated lists."""
    for split, count in (n or {"train": 4, "val": 2}).items():
        folder = f"{split}2017"
        for kind in ("images", "annotations", "curated"):
            (root / kind / folder).mkdir(parents=True)
        ids = [f"{7 * i + (0 if split == 'train' else 1000):012d}" for i in range(count)]
        for image_id in ids:
            image, label = labelled_picture(int(image_id), COCO_IDS)
            image.save(root / "images" / folder / f"{image_id}.jpg", quality=95)
            label.save(root / "annotations" / folder / f"{image_id}.png")
        listed = ids[: max(1, count - 1)]
        (root / "curated" / folder / CURATED).write_text("".join(f"{i}\n" for i in listed), "utf-8")
    return root


def write_cityscapes(root: Path, labels: str = "gtFine") -> Path:
    """Cityscapes: train, val, test and train_extra, two images of two cities each; labels of train and val."""
    for split in ("train", "val", "test", "train_extra"):
        for number, city in enumerate(("aa", "bb")):
            stem = f"{city}_000000_000019"
            image, label = labelled_picture(len(split) + number, CITY_IDS)
            path = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
            path.parent.mkdir(parents=True)
            image.save(path)
            if split in {"train", "val"}:
                path = root / labels / split / city / f"{stem}_gtFine_labelIds.png"
                path.parent.mkdir(parents=True)
                label.save(path)
                (path.parent / f"{stem}_gtFine_color.png").write_bytes(b"not a label map")
    return root


def write_shards(root: Path) -> Path:
    """A labelled folder of `write_labelled`, as two shards of train and one of val."""
    folder = write_labelled(root.with_name(f"{root.name}-unpacked"))
    root.mkdir(parents=True)
    shutil.copy(folder / "classes.toml", root)
    for split in ("train", "val"):
        (root / split).mkdir()
        photos = sorted((folder / "images" / split).iterdir())
        for number, part in enumerate((photos[:4], photos[4:])):
            if not part:
                continue
            with tarfile.open(root / split / f"{number:03d}.tar", "w") as tar:
                for photo in reversed(part):  # the order in a tar file does not matter
                    tar.add(photo, photo.name)
                    tar.add(folder / "labels" / split / f"{photo.stem}.png", f"{photo.stem}.seg.png")
    return root


MAKERS: dict[str, Callable[[Path], Path | None]] = {
    "folder": write_labelled,
    "webdataset": write_shards,
    "scenes": lambda root: None,  # needs no folder
    **dict.fromkeys(("cocostuff27", "cocostuff15", "cocostuff12", "cocostuff171"), write_coco),
    **dict.fromkeys(("cityscapes27", "cityscapes19"), write_cityscapes),
}
"""How to write each dataset of the registry below a folder; None is returned where it needs none."""

LABEL_FOLDERS = ("labels", "annotations", "gtFine")


def spoil_labels(root: Path) -> int:
    """Replace every label file below `root` by what cannot be read; how many there were."""
    files = [path for name in LABEL_FOLDERS for path in (root / name).rglob("*.png")]
    for path in files:
        path.write_bytes(b"a label that nobody may open")
    return len(files)
