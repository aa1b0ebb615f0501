"""Cityscapes: joined splits, the places where labels lie, ids by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import UNTRAINED
from tests.tiny_datasets import write_cityscapes

from picie.data.cityscapes import Cityscapes19, Cityscapes27
from picie.errors import InputError


@pytest.fixture
def city(tmp_path: Path) -> Path:
    return write_cityscapes(tmp_path / "city")


def test_splits_are_folders_and_can_be_joined(city: Path) -> None:
    assert [Cityscapes27(city, "val").name(i) for i in range(2)] == [
        "val/aa/aa_000000_000019_leftImg8bit.png",
        "val/bb/bb_000000_000019_leftImg8bit.png",
    ]
    training = Cityscapes27(city, "test+train_extra")
    assert [training.name(i).split("/")[0] for i in range(len(training))] == ["test"] * 2 + ["train_extra"] * 2
    assert training.classes is None
    authors = Cityscapes27(city, "train+val")
    assert authors.classes is not None
    assert (len(authors), authors.label(3).shape) == (4, (48, 64))
    with pytest.raises(InputError, match=r"no split 'trainn'; did you mean 'train'"):
        Cityscapes27(city, "trainn+val")
    with pytest.raises(InputError, match="no split ''"):
        Cityscapes27(city, "train+")


@pytest.mark.parametrize("place", ["annotations/gtFine", "annotations"])
def test_labels_may_lie_elsewhere(city: Path, tmp_path: Path, place: str) -> None:
    other = write_cityscapes(tmp_path / "other", labels=place)
    for index in range(2):
        assert np.array_equal(Cityscapes27(other, "val").label(index), Cityscapes27(city, "val").label(index))


def test_ids_are_mapped_to_classes(city: Path) -> None:
    data = Cityscapes27(city, "val")
    ids = np.array([[0, 6, 7, 9], [26, 33, 255, 29]], dtype=np.uint8)  # void, ground, road, parking / car, bicycle, -1, caravan
    Image.fromarray(ids).save(data.label_path(0))
    Image.new("RGB", (4, 2)).save(data.paths[0])
    assert data.label(0).tolist() == [[255, 255, 0, 2], [19, 26, 255, 22]]
    assert Cityscapes19(city, "val").label(0).tolist() == [[255, 255, 0, 255], [13, 18, 255, 255]]
    ids[0, 0] = 34
    Image.fromarray(ids).save(data.label_path(0))
    with pytest.raises(InputError, match=r"aa_000000_000019_gtFine_labelIds\.png: value 34 is not a label id"):
        data.label(0)


def test_missing_folders_are_reported(city: Path) -> None:
    shutil.rmtree(city / "gtFine" / "val")
    assert Cityscapes27(city, "val").classes is None
    with pytest.raises(InputError, match="the split has no labels"):
        Cityscapes27(city, "val").label(0)
    shutil.rmtree(city / "leftImg8bit" / "val" / "aa")
    shutil.rmtree(city / "leftImg8bit" / "val" / "bb")
    with pytest.raises(InputError, match=r"val: no \*_leftImg8bit\.png in it"):
        Cityscapes27(city, "val")
    shutil.rmtree(city / "leftImg8bit")
    with pytest.raises(InputError, match="leftImg8bit: no such folder"):
        Cityscapes27(city, "train")


def test_the_authors_protocol_trains_without_labels_and_names_its_split(
    city: Path, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    options = ("data.train_split=test+train_extra", *UNTRAINED)
    status, _, err = cli("train", "cityscapes27", f"data.root={city}", "--out", run, *options)
    assert status == 0, err
    assert json.loads((run / "run.json").read_text("utf-8"))["images"] == 4
    assert cli("evaluate", run, "--split", "train+val", "--json", scores)[0] == 0
    found = json.loads(scores.read_text("utf-8"))
    assert found["protocol"].startswith("train+val; centre square")
    assert found["n_images"] == 4
    assert cli("evaluate", run, "--dataset", "cityscapes19", "--json", scores)[0] == 0
    assert len(json.loads(scores.read_text("utf-8"))["per_class"]) == 19


def test_a_split_without_labels_points_at_the_check(
    city: Path, refused: Callable[..., str], cli: Callable[..., object]
) -> None:
    run = city.parent / "run"
    cli("train", "cityscapes27", f"data.root={city}", "--out", run, *UNTRAINED)
    assert f"split 'test' has no labels; scores need them; see `picie data check cityscapes27 {city}`" in refused(
        "evaluate", run, "--split", "test"
    )
