"""Folders, joined splits and parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from picie.data.base import MissingSplitError
from picie.data.layout import count_files, existing_folder, first_folder, split_names
from picie.errors import InputError


def test_splits_are_joined_and_checked_one_by_one(tmp_path: Path) -> None:
    valid = ("test", "train", "train_extra", "val")
    assert split_names("val", valid, tmp_path) == ["val"]
    assert split_names("test+train_extra", valid, tmp_path) == ["test", "train_extra"]
    for split, part in (("train+vall", "no split 'vall'; did you mean 'val'"), ("+val", "no split ''"), ("", "no split ''")):
        with pytest.raises(MissingSplitError, match=part):
            split_names(split, valid, tmp_path)


def test_the_first_existing_folder_is_used(tmp_path: Path) -> None:
    places = ("a/x", "b/x", "c")
    assert first_folder(tmp_path, places) == tmp_path / "a/x"  # named in messages
    (tmp_path / "c").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").touch()  # a file
    assert first_folder(tmp_path, places) == tmp_path / "c"


def test_files_with_an_ending_are_counted(tmp_path: Path) -> None:
    (tmp_path / "c" / "deep").mkdir(parents=True)
    for name in ("1.png", "deep/2.png", "3.jpg", "._1.png"):
        (tmp_path / "c" / name).touch()
    assert count_files(tmp_path, ("a", "c"), ".png") == ("c", 2)
    assert count_files(tmp_path, ("a", "b"), ".png") == ("a or b", 0)


def test_invalid_roots_are_refused(tmp_path: Path) -> None:
    assert existing_folder(str(tmp_path)) == tmp_path
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="nowhere: no such folder; give the moon"):
        existing_folder(tmp_path / "nowhere", "the moon")
    for name, message in (("file", "is a file"), ("nowhere", "no such folder")):
        with pytest.raises(InputError, match=message):
            existing_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("C:\\Users\\me\\photos", "under WSL this is /mnt/c/Users/me/photos"),
        ("D:/photos", "under WSL this is /mnt/d/photos"),
        ("s3://bucket/photos", "addresses are not supported: download the images to a folder, or mount it"),
        ("https://a.b/photos", "addresses are not supported"),
        ("/home/me:photos", "no such folder; give a folder of images"),
        ("C:photos", "no such folder"),
    ],
)
def test_paths_of_other_systems_are_explained(refused: Callable[..., str], path: str, advice: str) -> None:
    message = refused("train", path, "-k", "3")
    assert message.startswith(f"{path}: no such folder") and advice in message
