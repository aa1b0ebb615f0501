"""COCO-Stuff: lists, layouts, labels, the pickle, and the real sample where it is available."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TINY
from tests.tiny_datasets import CURATED, write_coco

from picie.config import load
from picie.data.base import MissingSplitError
from picie.data.cocostuff import CocoStuff12, CocoStuff15, CocoStuff27, CocoStuff171
from picie.data.cocostuff_classes import COARSE, FINE, FINE_TO_COARSE
from picie.data.cocostuff_mapping import FILE_NAME, fine_to_coarse
from picie.errors import InputError
from picie.training.checks import labelled_split

SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "cocostuff-mini"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of COCO-Stuff is not beside the checkout")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def write_label(root: Path, rows: object) -> None:
    """Give the first image of val the label `rows`, and a size that fits."""
    label = np.array(rows)
    Image.fromarray(label.astype(np.uint8) if label.max() < 256 else label.astype(np.uint16)).save(
        root / "annotations" / "val2017" / "000000001000.png"
    )
    Image.new("RGB", label.shape[::-1]).save(root / "images" / "val2017" / "000000001000.jpg")


def test_curated_lists_select_images(coco: Path) -> None:
    train = CocoStuff27(coco, "train")
    assert [train.name(i) for i in range(len(train))] == [f"train2017/{7 * i:012d}.jpg" for i in range(3)]  # of four
    assert len(CocoStuff27(coco, "train2017")) == 4
    assert len(CocoStuff27(coco, "val")) == 1
    both = CocoStuff27(coco, "val2017+train+val")  # a union: no image twice
    assert [both.name(i).partition("/")[0] for i in range(len(both))] == ["train2017"] * 3 + ["val2017"] * 2
    assert both.label(4).shape == (48, 64)


def test_an_image_in_a_folder_of_its_own_does_not_cost_the_split_its_labels(coco: Path) -> None:
    folder = coco / "images" / "val2017"
    (folder / "sub").mkdir()
    shutil.copy(folder / "000000001000.jpg", folder / "sub" / "000000009999.jpg")
    data = CocoStuff27(coco, "val2017")
    assert [data.name(i) for i in range(len(data))] == ["val2017/000000001000.jpg", "val2017/000000001007.jpg"]
    assert data.classes is not None
    for path in folder.glob("*.jpg"):
        path.unlink()
    with pytest.raises(InputError, match="no image file in it"):
        CocoStuff27(coco, "val2017")


def test_the_order_of_a_list_does_not_matter(coco: Path) -> None:
    before = CocoStuff27(coco).paths
    path = coco / "curated" / "train2017" / CURATED
    path.write_text("\r\n".join(reversed(path.read_text("utf-8").split())), "utf-8")
    assert CocoStuff27(coco).paths == before


def test_labels_are_mapped_to_classes(coco: Path) -> None:
    write_label(coco, [[0, 16, 11, 91], [181, 105, 255, 90]])  # person cat street-sign banner / wood sky-other - hair-brush
    person, animal, outdoor, indoor = (COARSE.index(f"{n}-things") for n in ("person", "animal", "outdoor", "indoor"))
    textile, solid, sky = (COARSE.index(f"{n}-stuff") for n in ("textile", "solid", "sky"))
    assert FINE[105] == "clouds"
    expected = [[person, animal, outdoor, textile], [solid, sky, 255, indoor]]
    assert CocoStuff27(coco, "val").label(0).tolist() == expected
    assert CocoStuff12(coco, "val").label(0).tolist() == [[9, 7, 8, 255], [255, 255, 255, 4]]
    assert CocoStuff15(coco, "val").label(0).tolist() == [[255, 255, 255, textile - 12], [solid - 12, sky - 12, 255, 255]]
    assert CocoStuff171(coco, "val").label(0).tolist() == [[0, 15, 255, 80], [170, 94, 255, 255]]  # 16, 105 less unused ones


@pytest.mark.parametrize("value", [182, 254, 256, 300])
def test_an_invalid_value_names_its_file(coco: Path, value: int) -> None:
    write_label(coco, [[0, value]])
    with pytest.raises(InputError, match=rf"000000001000\.png: value {value} is not a label id \(0\.\.181, 255: none\)"):
        CocoStuff27(coco, "val").label(0)


def test_a_label_that_is_missing_or_of_another_size_is_refused(coco: Path) -> None:
    data = CocoStuff27(coco, "val")
    Image.new("L", (10, 10)).save(data.label_path(0))
    with pytest.raises(InputError, match="label is 10x10 but its image"):
        data.label(0)
    data.label_path(0).unlink()
    with pytest.raises(InputError, match="no label for image"):
        data.label(0)


def test_without_annotations_there_are_no_classes(coco: Path) -> None:
    shutil.rmtree(coco / "annotations" / "train2017")
    assert CocoStuff27(coco, "train").classes is None
    assert CocoStuff27(coco, "val").classes is not None
    assert CocoStuff27(coco, "train+val").classes is None
    with pytest.raises(InputError, match="evaluation needs the label maps there"):
        CocoStuff27(coco, "train").label(0)


def test_other_usual_places_are_found(coco: Path) -> None:
    expected = CocoStuff27(coco, "val").label(0)
    (coco / "annotations").rename(coco / "stuffthingmaps")
    for folder in ("train2017", "val2017"):
        (coco / "images" / folder).rename(coco / folder)
    assert np.array_equal(CocoStuff27(coco, "val").label(0), expected)
    assert len(CocoStuff27(coco, "train")) == 3


def test_without_a_list_the_message_says_what_to_do(coco: Path) -> None:
    shutil.rmtree(coco / "curated")
    for split, option in (("train", "data.train_split=train2017"), ("val", "evaluate.split=val2017")):
        with pytest.raises(MissingSplitError) as error:
            CocoStuff27(coco, split)
        assert f"`picie data curate {coco}`" in str(error.value)
        assert option in str(error.value)
    assert len(CocoStuff27(coco, "val2017")) == 2


def test_without_a_list_of_val_a_run_goes_unscored_unless_val_was_asked_for(coco: Path) -> None:
    (coco / "curated" / "val2017" / CURATED).unlink()
    options = ["data.name=cocostuff27", f"data.root={json.dumps(str(coco))}"]
    assert labelled_split(load(None, None, options)) is None
    scored = labelled_split(load(None, None, [*options, "evaluate.split=val2017"]))
    assert scored is not None
    assert len(scored) == 2
    with pytest.raises(InputError, match="curate"):
        labelled_split(load(None, None, [*options, "evaluate.split=val+train"]))


def test_missing_listed_images_are_counted(coco: Path) -> None:
    for number in (7, 14):
        (coco / "images" / "train2017" / f"{number:012d}.jpg").unlink()
    with pytest.raises(InputError, match=r"2 of the 3 images of the list .* are missing, the first 000000000007\.jpg"):
        CocoStuff27(coco)
    assert len(CocoStuff27(coco, "train2017")) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "contains no id"), ("12\n", "'12' is not an image id"), ("00000000000x", "'00000000000x' is not")],
)
def test_an_invalid_list_is_refused(coco: Path, content: str, reason: str) -> None:
    (coco / "curated" / "train2017" / CURATED).write_text(content, "utf-8")
    with pytest.raises(InputError, match=reason):
        CocoStuff27(coco)


# the pickle


def plain(indices: Any = None, names: Any = None) -> dict[str, Any]:
    return {
        "fine_index_to_coarse_index": dict(enumerate(FINE_TO_COARSE)) if indices is None else indices,
        "fine_name_to_coarse_name": {f: COARSE[c] for f, c in zip(FINE, FINE_TO_COARSE, strict=True)}
        if names is None
        else names,
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_pickle_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: int) -> None:
    (tmp_path / FILE_NAME).write_bytes(pickle.dumps(plain(), protocol))
    assert fine_to_coarse(tmp_path) == FINE_TO_COARSE
    assert not caplog.records


def test_a_different_pickle_is_used_with_one_warning(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    other = dict(enumerate(FINE_TO_COARSE)) | {0: 7}  # a person is an animal
    (coco / FILE_NAME).write_bytes(pickle.dumps(plain(other)))
    write_label(coco, [[0, 16]])
    for _ in range(2):
        assert CocoStuff27(coco, "val").label(0).tolist() == [[7, 7]]
        assert CocoStuff12(coco, "val").label(0).tolist() == [[7, 7]]
    (record,) = caplog.records
    assert "1 names differ from picie's table, e.g. 'person'" in record.getMessage()


class Attack:
    """Unpickled the usual way, this calls `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


ATTACKS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda target: Attack(os.system, f"touch '{target}'"),
    "eval": lambda target: Attack(eval, f"__import__('pathlib').Path({str(target)!r}).touch()"),
    "open": lambda target: Attack(open, str(target), "w"),
    "nested": lambda target: plain({**dict(enumerate(FINE_TO_COARSE)), 5: Attack(os.system, f"touch '{target}'")}),
    "as a key": lambda target: plain(names={Attack(os.system, f"touch '{target}'"): "x"}),
    "numpy": lambda target: plain({**dict(enumerate(FINE_TO_COARSE)), 5: np.int64(11)}),
    "numpy array": lambda target: [np.zeros(3), Attack(os.system, f"touch '{target}'")],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_that_would_run_code_does_not(coco: Path, attack: str, refused: Callable[..., str]) -> None:
    target = coco / "pwned"
    content = pickle.dumps(ATTACKS[attack](target))
    if not attack.startswith("numpy"):
        pickle.loads(content)  # the attack works on a reader that is not careful
        assert target.exists()
        target.unlink()
    (coco / FILE_NAME).write_bytes(content)
    message = refused("train", "cocostuff27", f"data.root={coco}", "--out", coco.parent / "run", *TINY)
    assert not target.exists()
    assert f"{coco / FILE_NAME}: cannot be read as plain dictionaries (it refers to " in message
    assert "remove it" in message
    assert not (coco.parent / "run").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        pickle.dumps(plain())[:900],
        b"\x80\x04" + b"(" * 3000,
        pickle.dumps([1]),
        pickle.dumps({"fine_index_to_coarse_index": {}}),
        pickle.dumps(plain({i: 0 for i in range(181)})),
        pickle.dumps(plain(dict.fromkeys(range(182), 27))),
        pickle.dumps(plain(dict.fromkeys(range(182), 1.0))),
        pickle.dumps(plain(dict.fromkeys(range(182), True))),
        pickle.dumps(plain(names={"person": 9})),
        pickle.dumps(plain(names=[])),
        pickle.dumps(plain()) + b" " * 2**20,
    ],
    ids=range(13),
)
def test_an_invalid_pickle_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(InputError) as error:
        fine_to_coarse(tmp_path)
    assert str(error.value).startswith(str(tmp_path / FILE_NAME))
    assert "\n" not in str(error.value)


# the real sample


@needs_sample
def test_the_table_of_names_agrees_with_the_published_file() -> None:
    content = pickle.loads((SAMPLE / FILE_NAME).read_bytes())  # trusted: ours to test with
    indices, names = content["fine_index_to_coarse_index"], content["fine_name_to_coarse_name"]
    assert set(names) == set(FINE)
    assert [indices[i] for i in range(182)] == list(FINE_TO_COARSE)
    assert [names[FINE[i]] for i in range(182)] == [COARSE[indices[i]] for i in range(182)]


@needs_sample
def test_the_sample_trains_and_is_scored_under_all_classes_and_predicted(cli: Call, tmp_path: Path) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    small = [o for o in TINY if not o.startswith(("train.epochs=", "cluster.k="))]
    options = ("train.epochs=1", "cluster.k=5", "cluster.refit=1", "views.crop=48", "evaluate.size=48")
    status, _, err = cli("train", "cocostuff27", f"data.root={SAMPLE}", "--out", run, *small, *options)
    assert status == 0, err
    for n in (27, 15, 12, 171):
        status, _, err = cli("evaluate", run, "--dataset", f"cocostuff{n}", "--json", scores)
        assert status == 0, err
        found = json.loads(scores.read_text("utf-8"))
        assert (found["n_images"], len(found["per_class"])) == (8, n)
        assert 0 < found["miou"] < found["accuracy"] < 100
    (tmp_path / "some").mkdir()
    for path in sorted((SAMPLE / "images" / "val2017").iterdir())[:2]:
        shutil.copy(path, tmp_path / "some")
    assert cli("predict", run, tmp_path / "some", "--out", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").glob("*_overlay.jpg"))) == 2
