"""What holds for every registered dataset, on tiny fake data in its own layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import UNTRAINED
from tests.tiny_datasets import MAKERS, spoil_labels

from picie import registry
from picie.config import DataConfig
from picie.data import open_dataset, takes_folder
from picie.data.base import Dataset
from picie.errors import InputError
from picie.runtime.run_record import read_metrics

Call = Callable[..., tuple[int, str, str]]
ONE_EPOCH = (*(o for o in UNTRAINED if not o.startswith("train.epochs=")), "train.epochs=1", "cluster.refit=1")
every_dataset = pytest.mark.parametrize("name", registry.DATASETS)


def make(name: str, root: Path) -> DataConfig:
    """Fake data of the dataset `name`; a name without a maker fails here, and needs one in tests/tiny_datasets.py."""
    assert name in MAKERS, f"tests/tiny_datasets.py has no maker for the dataset {name!r}"
    written = MAKERS[name](root)
    assert (written is not None) == takes_folder(name)
    return DataConfig(name=name, root=None if written is None else str(written))


@every_dataset
def test_its_splits_hold_named_images_and_valid_labels(name: str, tmp_path: Path) -> None:
    source = make(name, tmp_path / "data")
    for split in ("train", "val"):
        data = open_dataset(source, split)
        assert isinstance(data, Dataset)
        assert len(data) > 0
        names = [data.name(i) for i in range(len(data))]
        assert names == sorted(set(names))
        assert not any("\\" in n or n.startswith(("/", ".")) for n in names)
        again = open_dataset(source, split)
        assert [again.name(i) for i in range(len(again))] == names
        classes = data.classes
        assert classes is not None
        seen = set()
        for index in range(min(3, len(data))):
            image, label = data.image(index), data.label(index)
            assert image.mode == "RGB"
            assert label.shape == (image.height, image.width)
            assert np.issubdtype(label.dtype, np.integer)
            seen |= set(np.unique(label).tolist())
        assert seen <= {*range(len(classes)), classes.ignore}
        assert seen - {classes.ignore}


@every_dataset
def test_a_split_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        open_dataset(make(name, tmp_path / "data"), "vall")
    assert "did you mean 'val'" in str(error.value)
    assert "\n" not in str(error.value)


@every_dataset
def test_the_check_passes(name: str, cli: Call, tmp_path: Path) -> None:
    source = make(name, tmp_path / "data")
    status, out, err = cli("data", "check", name, *([source.root] if source.root else []))
    assert (status, err) == (0, "")
    assert out.startswith(f"{name}: ")
    for split in ("train", "val"):
        assert f"split {split}: {len(open_dataset(source, split))} images" in out
    assert "!" not in out
    if source.root is None:
        assert "needs no folder" in out


@every_dataset
def test_it_trains_a_step_and_is_scored(name: str, cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(name, tmp_path / "data")
    if source.root is None:
        monkeypatch.setattr("picie.data.scenes.dataset.SPLITS", {"train": 4, "val": 2})
    root = [f"data.root={source.root}"] if source.root else []
    run = tmp_path / "run"
    status, _, err = cli("train", f"data.name={name}", *root, "--out", run, *ONE_EPOCH)
    assert status == 0, err
    (line,) = read_metrics(run)
    assert 0 < line["loss"] < 10
    assert line["miou"] > 0
    assert line["protocol"].startswith("val; ")


# scenes has no files; tests/data/test_shards.py spoils labels in shards
@pytest.mark.parametrize("name", [name for name in registry.DATASETS if name not in {"scenes", "webdataset"}])
def test_no_label_is_opened_for_training(name: str, cli: Call, tmp_path: Path) -> None:
    source = make(name, tmp_path / "data")
    assert spoil_labels(Path(str(source.root))) > 3
    data = open_dataset(source, "train")
    assert data.image(0).mode == "RGB"
    with pytest.raises(InputError):
        data.label(0)  # the labels are spoilt indeed
    run = tmp_path / "run"
    arguments = ("train", f"data.name={name}", f"data.root={source.root}", *ONE_EPOCH, "--out", run)
    status, _, err = cli(*arguments)
    assert status == 2  # the labels of val are opened to score, before any work
    assert "cannot be read as a label map" in err
    for folder in ("labels/val", "annotations/val2017", "gtFine/val"):
        if (tmp_path / "data" / folder).is_dir():
            (tmp_path / "data" / folder).rename(tmp_path / "gone")
    status, _, err = cli(*arguments)
    assert status == 0, err
    assert "miou" not in read_metrics(run)[0]


def test_a_dataset_without_a_maker_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="has no maker for the dataset 'new'"):
        make("new", tmp_path)
