"""Made-up pictures are a labelled folder, and few can stand for many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pictures import CLASSES, image_paths, repeat, write
from picie.data.folder import Folder
from picie.data.scenes.dataset import Scenes
from picie.errors import InputError


def test_they_are_a_labelled_folder_that_is_the_same_each_time(tmp_path: Path) -> None:
    splits = []
    for name in ("a", "b"):
        write(tmp_path / name, 4, (36, 48))
        splits.append([Folder(tmp_path / name, split) for split in ("train", "val")])
    assert [len(split) for split in splits[0]] == [4, 1]
    for first, second in zip(*splits, strict=True):
        assert first.classes is not None
        assert len(first.classes) == CLASSES
        for index in range(len(first)):
            assert first.image(index).size == (48, 36)
            assert np.array_equal(first.label(index), second.label(index))
            assert np.array_equal(np.asarray(first.image(index)), np.asarray(second.image(index)))
    labels = [splits[0][0].label(index) for index in range(4)]
    assert len(np.unique(np.stack(labels))) > CLASSES // 2
    assert not np.array_equal(labels[0], labels[1])


def test_repeated_they_are_so_many_images(tmp_path: Path, labelled_folder: Path) -> None:
    few = Folder(labelled_folder, "train")
    repeat(image_paths(few), 3, tmp_path / "many")
    many = Folder(tmp_path / "many")
    assert len(many) == 3 * len(few)
    assert np.array_equal(np.asarray(many.image(len(few) + 1)), np.asarray(few.image(1)))


def test_what_is_not_in_files_has_no_paths() -> None:
    with pytest.raises(InputError, match="must be a dataset of image files"):
        image_paths(Scenes("train"))
