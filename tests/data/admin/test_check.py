"""`picie data check`: what it reports, and when it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tests.conftest import picture
from tests.tiny_datasets import CURATED, write_cityscapes, write_coco

from picie.data.base import ClassMap

Call = Callable[..., tuple[int, str, str]]


class Strange:
    """A dataset from outside, whose labels may not fit."""

    classes = ClassMap(("a", "b", "c"), ("#000000", "#111111", "#222222"))

    def __init__(self, root: Path, split: str = "train") -> None:
        self.wrong = (root / "wrong").exists()

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return f"strange {index}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(picture(index)[0])

    def label(self, index: int) -> np.ndarray:
        label = picture(index)[1]
        return label[:, 1:] if self.wrong else label


def failing(cli: Call, name: str, root: Path) -> tuple[str, str]:
    """The report and the one line of an error."""
    status, out, err = cli("data", "check", name, root)
    assert status == 2
    assert err.count("\n") == 1
    assert f"picie: error: {name} cannot be used for train and val as it is: " in err
    assert "expected:\n    ROOT/" in out or ":" in name
    return out, err


def test_parts_are_counted_against_the_full_set(cli: Call, tmp_path: Path) -> None:
    status, out, _ = cli("data", "check", "cocostuff27", write_coco(tmp_path / "coco"))
    assert status == 0
    for line in (
        "    images of train2017: 4 of 118,287, a subset, in images/train2017",
        "    labels of val2017: 2 of 5,000, a subset, in annotations/val2017",
        f"    curated list of train: 3 of 49,629, a subset, in curated/train2017/{CURATED}",
        "    fine-to-coarse table: missing, optional; looked in fine_to_coarse_dict.pickle; picie has a built-in table",
        "    split train: 3 images, 27 classes",
        "    split val: of 1 images checked, 1 can be read; 1 have a valid label of the same size",
        "    ROOT/images/{train,val}2017/*.jpg",
    ):
        assert line in out
    status, out, _ = cli("data", "check", "cityscapes27", write_cityscapes(tmp_path / "city", "annotations"))
    assert status == 0
    assert "    images of train_extra: 2 of 19,998, a subset, in leftImg8bit/train_extra" in out
    assert "    labels of val: 2 of 500, a subset, in annotations/val" in out


def test_a_missing_list_is_needed_and_refused(cli: Call, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco")
    (root / "curated" / "train2017" / CURATED).unlink()
    out, err = failing(cli, "cocostuff27", root)
    assert "  ! curated list of train: missing, required; looked in curated/train2017/" in out
    assert f"picie data curate {root} creates it" in out
    assert "  ! split train: " in out
    assert "no curated list of train in" in err
    assert "(and 1 more, marked ! above)" in err


def test_labels_of_train_are_optional_and_those_of_val_are_not(cli: Call, tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "city")
    shutil.rmtree(root / "gtFine" / "train")
    status, out, _ = cli("data", "check", "cityscapes19", root)
    assert status == 0
    assert "labels of train: missing, optional; looked in gtFine/train or annotations/gtFine/train or annotations/train" in out
    assert "split train: 2 images, no labels" in out
    shutil.rmtree(root / "gtFine" / "val")
    assert "! labels of val: missing, required" in failing(cli, "cityscapes19", root)[0]


def test_images_without_a_label_are_counted(cli: Call, tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "city")
    next((root / "gtFine" / "train" / "aa").glob("*labelIds.png")).unlink()
    out, _ = failing(cli, "cityscapes27", root)
    assert "split train: 1 images without a label, the first train/aa/aa_000000_000019_leftImg8bit.png" in out


def test_listed_images_that_are_missing_and_foreign_labels_are_found(cli: Call, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco")
    (root / "images" / "train2017" / f"{7:012d}.jpg").unlink()
    assert "1 of the 3 images of the list" in failing(cli, "cocostuff27", root)[1]
    root = write_coco(tmp_path / "other")
    Image.new("L", (64, 48), 200).save(root / "annotations" / "val2017" / "000000001000.png")
    out, err = failing(cli, "cocostuff15", root)
    assert "value 200 is not a label id" in err
    assert "1 can be read; 0 have a valid label" in out


def test_unreadable_images_are_reported_and_a_problem_only_if_all_are(cli: Call, own_folder: Path) -> None:
    paths = sorted((own_folder / "images" / "val").iterdir())
    paths[0].write_bytes(b"x")
    status, out, _ = cli("data", "check", "folder", own_folder)
    assert status == 0
    assert "100.jpg: cannot be read as an image" in out
    assert "of 2 images checked, 1 can be read" in out
    paths[1].write_bytes(b"x")
    failing(cli, "folder", own_folder)


def test_a_custom_dataset_is_checked(cli: Call, tmp_path: Path) -> None:
    name = f"{__name__}:Strange"
    status, out, _ = cli("data", "check", name, tmp_path)
    assert status == 0
    assert "A dataset from outside" in out
    assert "split val: 2 images, 3 classes" in out
    (tmp_path / "wrong").touch()
    assert "strange 0: label is 63x48 but its image 64x48" in failing(cli, name, tmp_path)[1]


def test_missing_and_unneeded_folders_are_reported(refused: Callable[..., str], cli: Call, tmp_path: Path) -> None:
    assert "ROOT is missing" in refused("data", "check", "folder")
    nowhere = tmp_path / "nowhere"
    for arguments in (("check", "cocostuff27"), ("check", "folder"), ("curate",)):
        said = refused("data", *arguments, nowhere)
        assert said == f"{nowhere}: no such folder; give the folder that contains the dataset"
    assert "did you mean 'cocostuff27'" in refused("data", "check", "cocostuf27", tmp_path)
    status, out, _ = cli("data", "check", "scenes", tmp_path)
    assert status == 0
    assert f"scenes needs no folder; {tmp_path} is ignored" in out
