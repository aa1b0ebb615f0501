"""The rule of the curated lists, by hand."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tiny_datasets import CURATED

from picie.cli.data import TerminalReporter
from picie.data.admin.curate import curate, stuff_share
from picie.data.cocostuff import CocoStuff27
from picie.errors import InputError


def write(root: Path, split: str, labels: dict[int, list[int]]) -> None:
    """Images of one row, and their label maps, by id."""
    for kind in ("images", "annotations"):
        (root / kind / f"{split}2017").mkdir(parents=True)
    for number, row in labels.items():
        Image.new("RGB", (len(row), 1)).save(root / "images" / f"{split}2017" / f"{number:012d}.jpg")
        Image.fromarray(np.array([row], dtype=np.uint8)).save(root / "annotations" / f"{split}2017" / f"{number:012d}.png")


def listed(root: Path, split: str) -> str:
    return (root / "curated" / f"{split}2017" / CURATED).read_text("utf-8")


EXAMPLES = {
    9: [91, 181, 120, 0],  # three of four: just enough
    4: [100, 100, 100, 100],
    5: [91, 91, 0, 90],  # two of four
    6: [100, 100, 255, 255],  # all that is labelled is stuff, yet half of the image
    7: [100, 100, 100, 255],
}


def test_images_of_three_quarters_stuff_are_listed_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, "train", EXAMPLES)
    write(tmp_path, "val", {1: [91], 2: [0]})
    curate(tmp_path, TerminalReporter())
    assert listed(tmp_path, "train") == "000000000004\n000000000007\n000000000009\n"
    assert listed(tmp_path, "val") == "000000000001\n"
    assert len(CocoStuff27(tmp_path, "train+val")) == 4
    lines = [record.getMessage() for record in caplog.records]
    assert any("3 of 5 images; the published list has 49,629" in line for line in lines)
    assert any("1 of 2 images; the published list has 2,175" in line for line in lines)


def test_the_share_is_of_all_pixels() -> None:
    assert [stuff_share(np.array([row])) for row in EXAMPLES.values()] == [0.75, 1.0, 0.5, 0.5, 0.75]


def test_a_list_is_never_overwritten_and_the_other_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, "train", EXAMPLES)
    write(tmp_path, "val", {1: [91]})
    (tmp_path / "curated" / "val2017").mkdir(parents=True)
    (tmp_path / "curated" / "val2017" / CURATED).write_text("mine", "utf-8")
    curate(tmp_path, TerminalReporter())
    mine = tmp_path / "curated" / "val2017" / CURATED
    assert f"{mine}: exists already, not changed" in caplog.messages
    assert (listed(tmp_path, "val"), len(listed(tmp_path, "train").split())) == ("mine", 3)


def test_if_all_lists_exist_they_are_named(tmp_path: Path) -> None:
    write(tmp_path, "val", {1: [91]})
    for split in ("val", "train"):  # of train there are no images, and then it is there
        path = tmp_path / "curated" / f"{split}2017" / CURATED
        path.parent.mkdir(parents=True)
        path.write_text("mine", "utf-8")
        with pytest.raises(InputError, match=rf"{split}2017/{CURATED}.*: exists already.*; remove it to recreate it"):
            curate(tmp_path, TerminalReporter())
        assert path.read_text("utf-8") == "mine"


def test_a_missing_split_is_skipped_and_none_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(InputError, match="no image to list in train2017 or val2017"):
        curate(tmp_path, TerminalReporter())
    write(tmp_path, "val", EXAMPLES)
    curate(tmp_path, TerminalReporter())
    assert "no list for split train" in caplog.text
    assert len(listed(tmp_path, "val").split()) == 3
    assert not (tmp_path / "curated" / "train2017").exists()


def test_no_qualifying_image_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "val", {1: [0], 2: [255]})
    with pytest.raises(InputError, match="no image to list"):
        curate(tmp_path, TerminalReporter())
    assert not (tmp_path / "curated").exists()


def test_an_image_without_a_label_and_a_foreign_label_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "val", EXAMPLES | {8: [200, 100]})
    with pytest.raises(InputError, match=r"000000000008\.png: value 200 is not a label id"):
        curate(tmp_path, TerminalReporter())
    (tmp_path / "annotations" / "val2017" / "000000000005.png").unlink()
    with pytest.raises(InputError, match=r"val2017: 1 of 6 images have no label, the first 000000000005"):
        curate(tmp_path, TerminalReporter())
    assert not (tmp_path / "curated").exists()
