"""`picie predict`: its output files, their content, and files that it must not change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import COLORS, NAMES

from picie import Segmenter
from picie.errors import InputError
from picie.inference.predict import predict_files
from picie.version import __version__


@pytest.fixture
def photos(tmp_path: Path, labelled_folder: Path) -> Path:
    """Pictures with colliding names, in folders and with odd names."""
    root = tmp_path / "photos"
    source = Image.open(labelled_folder / "images" / "val" / "100.jpg")
    for name in ("a.jpg", "a.png", "A b/é 1.jpg", "deep/er/x.tif", "legend.jpg", "v1.2.bmp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source.save(root / name)
    Image.new("L", (1, 30), 7).save(root / "strip.png")
    return root


def record(out: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((out / "predictions.json").read_text("utf-8"))
    return content


def test_folders_are_kept_and_equal_stems_told_apart(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_files(trained, [photos], out) == 7
    stems = ["a_jpg", "a_png", "A b/é 1", "deep/er/x", "legend_2", "v1.2", "strip"]
    expected = {f"{stem}{end}" for stem in stems for end in (".png", "_overlay.jpg")} | {"legend.png", "predictions.json"}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == expected


def test_same_names_from_two_folders_do_not_collide(trained: Path, tmp_path: Path) -> None:
    for folder, size in (("one", (20, 30)), ("two", (30, 20)), ("three", (9, 9))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / folder / "x.png")
    out = tmp_path / "out"
    paths = [tmp_path / "one", tmp_path / "two" / "x.png", tmp_path / "three"]
    assert predict_files(trained, paths, out) == 3
    images = record(out)["images"]
    assert len(images) == 3
    for path, entry in images.items():
        assert Image.open(out / entry["labels"]).size == Image.open(path).size
        assert Image.open(out / entry["overlay"]).size == Image.open(path).size


def test_a_file_that_is_given_twice_is_one(trained: Path, photos: Path, tmp_path: Path) -> None:
    assert predict_files(trained, [photos / "a.jpg", photos / "a.jpg"], tmp_path / "out") == 1
    assert (tmp_path / "out" / "a.png").is_file()


def test_the_index_map_is_what_predict_gives(trained: Path, photos: Path, tmp_path: Path) -> None:
    predict_files(trained, [photos], tmp_path / "out")
    segmenter = Segmenter.load(trained)
    for name, source in (("a_png", "a.png"), ("strip", "strip.png")):
        image = Image.open(tmp_path / "out" / f"{name}.png")
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), segmenter.predict(photos / source))
        palette = image.getpalette()
        assert [tuple(palette[3 * i : 3 * i + 3]) for i in range(3)] == list(segmenter.colors)


def test_the_record_says_what_was_done(trained: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"x")
    out = tmp_path / "out"
    assert predict_files(trained, [photos], out) == 7
    content = record(out)
    assert content["picie"] == __version__
    assert content["run"] == str(trained)
    assert content["names"] == list(NAMES)
    assert content["colors"] == list(COLORS)
    assert list(content["skipped"]) == [str(photos / "broken.jpg")]
    entry = content["images"][str(photos / "a.png")]
    assert entry["labels"] == "a_png.png"
    counts = np.bincount(np.asarray(Image.open(out / "a_png.png")).ravel(), minlength=3) / (64 * 48)
    assert entry["share"] == {NAMES[i]: pytest.approx(counts[i], abs=1e-4) for i in range(3) if counts[i]}
    assert list(entry["share"].values()) == sorted(entry["share"].values(), reverse=True)


def test_a_second_prediction_of_a_picture_takes_the_place_of_the_first(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos], out)
    before, files = record(out)["images"], set(out.rglob("*"))
    Image.new("L", (5, 9), 7).save(photos / "strip.png")
    predict_files(trained, [photos / "strip.png"], out)
    assert set(record(out)["images"]) == set(before)
    assert set(out.rglob("*")) == files
    assert Image.open(out / "strip.png").size == (5, 9)


def test_foreign_files_and_inputs_are_never_overwritten(trained: Path, photos: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        predict_files(trained, [photos], foreign)
    before = {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()}
    for out in (photos, photos / "deep"):
        with pytest.raises(InputError, match=r"give a(nother| new) folder"):
            predict_files(trained, [photos], out)
    assert {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()} == before
    with pytest.raises(InputError, match="is a file"):
        predict_files(trained, [photos], foreign / "thesis.txt")
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_an_earlier_output_is_not_overwritten_as_an_input(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos / "strip.png"], out)
    before = (out / "strip.png").read_bytes()
    with pytest.raises(InputError, match="might be overwritten"):
        predict_files(trained, [out / "strip.png"], out)
    assert (out / "strip.png").read_bytes() == before


def test_predictions_below_the_photos_are_not_taken_for_photos(trained: Path, photos: Path) -> None:
    assert predict_files(trained, [photos], photos / "predicted") == 7
    shutil.rmtree(photos / "A b")
    assert predict_files(trained, [photos], photos / "predicted") == 6


def test_predictions_of_one_run_add_up_and_those_of_another_are_not_mixed_in(
    trained: Path, own_run: Path, labelled_folder: Path, tmp_path: Path
) -> None:
    first, second = sorted((labelled_folder / "images" / "val").iterdir())[:2]
    out = tmp_path / "out"
    assert predict_files(trained, [first], out) == 1
    before = (out / "predictions.json").read_bytes()
    with pytest.raises(InputError, match="holds predictions of another run"):
        predict_files(own_run, [second], out)
    assert (out / "predictions.json").read_bytes() == before
    assert predict_files(trained, [second], out) == 1
    assert set(json.loads((out / "predictions.json").read_text())["images"]) == {str(first), str(second)}
    twin = tmp_path / "elsewhere" / first.name
    twin.parent.mkdir()
    twin.write_bytes(second.read_bytes())
    predict_files(trained, [twin], out)
    labels = [entry["labels"] for entry in json.loads((out / "predictions.json").read_text())["images"].values()]
    assert len(set(labels)) == 3


def test_of_a_labelled_folder_the_images_alone_are_predicted(trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    assert predict_files(trained, [labelled_folder], tmp_path / "out") == len(list((labelled_folder / "images").rglob("*.jpg")))


def test_label_maps_beside_images_are_no_photos(trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled_folder / "images" / "val", tmp_path / "coco" / "images" / "val2017")
    shutil.copytree(labelled_folder / "labels" / "val", tmp_path / "coco" / "annotations" / "val2017")
    assert predict_files(trained, [tmp_path / "coco"], tmp_path / "out", "cpu") == 2
