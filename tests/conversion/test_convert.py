"""`picie convert`: its options, its photos, its errors, and that nothing is left or lost when it fails."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from tests.conversion.predicted import NAMES, label_maps, write_predictions

import picie
from picie import registry
from picie.conversion.base import ConvertOptions
from picie.conversion.coco import Coco
from picie.errors import InputError, PicieError, Stopped
from picie.inference.prediction_folder import open_predictions

Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """A folder of predictions of `label_maps()`."""
    return write_predictions(tmp_path, label_maps())


def test_the_command_writes_what_it_says(predicted: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "new" / "areas.csv"
    assert cli("convert", predicted, "--to", "csv", "--out", out) == (0, f"5 images -> {out}\n", "")
    assert len(out.read_text("utf-8").splitlines()) > 5
    (predicted / "noise.png").unlink()
    status, printed, err = cli("convert", predicted, "--to", "csv", "--out", out, "--overwrite")
    assert (status, printed) == (1, f"4 images -> {out}, 1 skipped\n")
    assert err.count("\n") == 1
    assert "noise.png: cannot be read as a label map" in err


def test_the_formats_are_listed(cli: Cli) -> None:
    status, printed, _ = cli("list", "formats")
    assert status == 0
    assert [line.split()[0] for line in printed.splitlines()] == list(registry.FORMATS)


def test_predict_converts(trained: Path, labelled_folder: Path, tmp_path: Path, cli: Cli, refused: Refused) -> None:
    photos, out = labelled_folder / "images" / "val", tmp_path / "out"
    for name, message in [
        ("cocoa", "--format: unknown name 'cocoa'; did you mean 'coco'?"),
        ("no_such_module:Format", "cannot import 'no_such_module'"),
        ("json:JSONDecoder", "--format: 'json:JSONDecoder' is not a subclass of picie.conversion.base.Format"),
    ]:
        assert message in refused("predict", trained, photos, "--out", out, "--format", name)
    assert not out.exists()
    command = ("predict", trained, photos, "--out", out, "--format", "coco", "--format", "yolo", "--device", "cpu")
    for _ in range(2):  # the second replaces the results of the first
        assert cli(*command)[0] == 0
        content = json.loads((out / "formats" / "coco.json").read_text())
        assert [image["file_name"] for image in content["images"]] == ["100.jpg", "101.jpg"]
        assert content["info"]["photos"] == str(photos)
        assert sorted(path.name for path in (out / "formats" / "yolo" / "labels").iterdir()) == ["100.txt", "101.txt"]
    assert [image.name for image in open_predictions(out).images] == ["100", "101"]


def test_predict_asks_for_a_missing_package_first(
    trained: Path, labelled_folder: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pycocotools" else original(name))
    out = tmp_path / "out"
    message = refused("predict", trained, labelled_folder / "images" / "val", "--out", out, "--format", "coco")
    assert message == "--format coco: needs pycocotools; pip install 'picie[coco]'"
    assert not out.exists()


def test_predict_writes_all_formats_if_one_lacks_a_picture(
    trained: Path, labelled_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    out, photos = tmp_path / "out", labelled_folder / "images" / "val"
    assert cli("predict", trained, photos, "--out", out, "--device", "cpu")[0] == 0
    (out / "100.png").write_bytes(b"damaged")  # its prediction is still on record, so it is not predicted again
    status, printed, _ = cli("predict", trained, photos, "--out", out, "--device", "cpu", "--format", "csv", "--format", "coco")
    assert status == 1
    assert printed.count(", 1 skipped\n") == 2
    assert (out / "formats" / "coco.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "coc", "--out", "x.json"], "--to: unknown name 'coc'; did you mean 'coco'?"),
        (["--to", "coco", "--out", "x.txt"], "writes one file; give a name that ends in .json"),
        (
            ["--to", "csv", "--out", "x.csv", "--fill-holes"],
            "--to csv: does not use --fill-holes; its options are: --min-area, --per",
        ),
        (["--to", "yolo", "--out", "predicted"], "holds other files than an earlier conversion"),
    ],
)
def test_wrong_arguments_change_nothing(
    arguments: list[str], message: str, predicted: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(predicted.parent)
    before = sorted(predicted.parent.rglob("*"))
    if "predicted" in arguments:
        arguments = [*arguments, "--overwrite"]
    assert message in refused("convert", predicted, *arguments)
    assert sorted(predicted.parent.rglob("*")) == before


def test_folders_that_are_no_predictions_are_refused(tmp_path: Path, refused: Refused) -> None:
    assert "no such folder" in refused("convert", tmp_path / "none", "--to", "csv", "--out", tmp_path / "x.csv")
    assert "has no predictions.json" in refused("convert", tmp_path, "--to", "csv", "--out", tmp_path / "x.csv")
    (tmp_path / "predictions.json").write_text("{")
    assert "is damaged" in refused("convert", tmp_path, "--to", "csv", "--out", tmp_path / "x.csv")


def test_a_missing_package_is_named(predicted: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "shapely" else original(name))
    message = refused("convert", predicted, "--to", "coco", "--shape", "polygon", "--out", tmp_path / "x.json")
    assert message == "--to coco: needs shapely; pip install 'picie[geo]'"


def test_outdated_predictions_are_left_out(predicted: Path, tmp_path: Path) -> None:
    record = json.loads((predicted / "predictions.json").read_text("utf-8"))
    next(entry for path, entry in record["images"].items() if path.endswith("rings.jpg"))["size"] = 0
    (predicted / "predictions.json").write_text(json.dumps(record))
    summary = picie.convert(predicted, "csv", tmp_path / "x.csv", progress=False)
    assert summary.converted == 4
    assert "was predicted before the run's segments changed; repeat `picie predict`" in summary.skipped["rings"]


# ---- components


def test_components_have_boxes_and_centroids(predicted: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts.csv"
    picie.convert(predicted, "csv", out, ConvertOptions(per="component", min_area=5), progress=False)
    rows = [row for row in csv.DictReader(out.open(encoding="utf-8")) if row["picture"] == "rings.jpg"]
    labels, expected = label_maps()["rings.jpg"], []
    for value in range(4):
        numbered, count = ndimage.label(labels == value)
        for number, (y, x) in enumerate(ndimage.find_objects(numbered), 1):
            mask = numbered == number
            if mask.sum() >= 5:
                center = ndimage.center_of_mass(mask)
                box = (x.start, y.start, x.stop - x.start, y.stop - y.start)
                expected.append((NAMES[value], int(mask.sum()), *box, round(center[1] + 0.5, 2), round(center[0] + 0.5, 2)))
        assert count
    keys = ("pixels", "box_x", "box_y", "box_width", "box_height")
    found = [
        (row["segment"], *(int(row[key]) for key in keys), float(row["centroid_x"]), float(row["centroid_y"])) for row in rows
    ]
    assert sorted(found) == sorted(expected)
    assert {row["component"] for row in rows} == {"1", "2"}


def test_coco_counts_components_and_fills_holes(predicted: Path, tmp_path: Path) -> None:
    def areas(name: str, **options: Any) -> list[float]:
        picie.convert(predicted, "coco", tmp_path / name, ConvertOptions(**options), progress=False)
        content = json.loads((tmp_path / name).read_text())
        (image,) = (image["id"] for image in content["images"] if image["file_name"] == "rings.jpg")
        return sorted(a["area"] for a in content["annotations"] if a["image_id"] == image and a["category_id"] == 2)

    # segment 1 is a block of 16 x 22 with a hole of 7 x 9, in which are 2 x 3 pixels of it, and one of 2 x 2
    assert areas("a.json") == [16 * 22 - 7 * 9 - 4 + 6]
    assert areas("b.json", per="component") == [6, 16 * 22 - 7 * 9 - 4]
    assert areas("c.json", per="component", fill_holes=True, min_area=7) == [16 * 22]
    assert areas("d.json", shape="polygon", per="component", fill_holes=True, tolerance=0) == [6, 16 * 22]


def test_the_area_of_a_simplified_polygon_is_without_its_holes(tmp_path: Path) -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[5:10, 5:12] = 1
    labels[2:3, 15:18] = 1
    folder = write_predictions(tmp_path, {"holes.jpg": labels})
    picie.convert(folder, "coco", tmp_path / "x.json", ConvertOptions(shape="polygon", tolerance=1.0), progress=False)
    annotations = json.loads((tmp_path / "x.json").read_text())["annotations"]
    assert {a["category_id"]: a["area"] for a in annotations} == {1: (labels == 0).sum(), 2: (labels == 1).sum()}


# ---- photos


def test_photos_come_as_training_tools_read_them(tmp_path: Path) -> None:
    maps = {name: np.zeros((8, 12), np.uint8) for name in ("plain.jpg", "plain2.png", "turned.jpg", "deep.tif")}
    folder, photos = write_predictions(tmp_path, maps), tmp_path / "photos"
    stored = Image.new("RGB", (8, 12), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    stored.save(photos / "turned.jpg", exif=exif)
    Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(photos / "deep.tif")
    yolo = tmp_path / "yolo"
    picie.convert(folder, "yolo", yolo, progress=False)
    files = sorted(path.name for path in (yolo / "images").iterdir())
    assert files == ["deep.jpg", "plain.jpg", "plain2.png", "turned.jpg"]
    assert (yolo / "images" / "plain.jpg").readlink() == photos / "plain.jpg"
    for name in files:
        with Image.open(yolo / "images" / name) as image:
            assert image.size == (12, 8)
            assert image.getexif().get(0x0112, 1) == 1
    picie.convert(folder, "voc", tmp_path / "voc", ConvertOptions(photos="copy"), progress=False)
    copies = sorted((tmp_path / "voc" / "JPEGImages").iterdir())
    assert [path.name for path in copies] == ["deep.jpg", "plain.jpg", "plain2.jpg", "turned.jpg"]
    assert not any(path.is_symlink() for path in copies)
    assert (tmp_path / "voc" / "labelmap.txt").read_text("utf-8").splitlines()[5].startswith("路- x:")
    picie.convert(folder, "yolo", tmp_path / "none", ConvertOptions(photos="none"), progress=False)
    assert not (tmp_path / "none" / "images").exists()


def test_a_photo_that_changed_or_is_gone_is_reported(predicted: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "noise.jpg").unlink()
    Image.new("RGB", (3, 3)).save(photos / "rings.jpg")
    summary = picie.convert(predicted, "yolo", tmp_path / "yolo", progress=False)
    assert "is no longer there" in summary.skipped["noise"]
    assert "has another size than its label map" in summary.skipped["rings"]
    assert summary.converted == 3


def test_a_photo_above_the_limit_of_pillow_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_predictions(tmp_path, {"large.jpg": np.zeros((8, 12), np.uint8)})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow refuses twice as many
    assert picie.convert(folder, "yolo", tmp_path / "yolo", progress=False).converted == 1
    assert (tmp_path / "yolo" / "images" / "large.jpg").is_symlink()


def test_a_photo_with_damaged_exif_does_not_end_the_conversion(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, {name: np.zeros((8, 12), np.uint8) for name in ("damaged.png", "plain.png")})
    Image.new("RGB", (12, 8)).save(tmp_path / "photos" / "damaged.png", exif=b"Exif\0\0no EXIF at all")
    summary = picie.convert(folder, "yolo", tmp_path / "yolo", progress=False)
    assert summary.converted == 1
    assert "damaged.png: cannot be read as an image" in summary.skipped["damaged"]


# ---- interruptions and full disks


@pytest.mark.parametrize("name", ["coco.json", "yolo"])
def test_a_stop_leaves_what_was_there(name: str, predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to, out = name.split(".")[0], tmp_path / name
    picie.convert(predicted, to, out, progress=False)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    make = registry.find(registry.FORMATS, to, "test")
    original = make.write

    def interrupted(self: Any, encoded: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        original(self, encoded)

    monkeypatch.setattr(make, "write", interrupted)
    with pytest.raises(Stopped, match=r"stopped; .* was not written"):
        picie.convert(predicted, to, out, overwrite=True, progress=False)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_a_full_disk_leaves_nothing_behind(predicted: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, encoded: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Coco, "write", full)
    status, _, err = cli("convert", predicted, "--to", "coco", "--out", tmp_path / "x.json")
    assert (status, err.count("\n")) == (1, 1)
    assert "the disk is full" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "predicted"]


def test_a_format_of_ones_own_is_used(predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    (tmp_path / "my_formats.py").write_text(
        "from picie.conversion.base import Format\n\n\n"
        "class Sizes(Format):\n"
        "    options = frozenset()\n\n"
        "    def encode(self, picture):\n        return f'{picture.photo} {picture.width} {picture.height}\\n'\n\n"
        "    def write(self, encoded):\n"
        "        with (self.place / 'sizes.txt').open('a', encoding='utf-8') as file:\n            file.write(encoded)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli("convert", predicted, "--to", "my_formats:Sizes", "--out", tmp_path / "sizes")[0] == 0
    assert "rings.jpg 31 20\n" in (tmp_path / "sizes" / "sizes.txt").read_text("utf-8")
    with registry.trust_scope():
        picie.convert(predicted, "my_formats:Sizes", tmp_path / "again", progress=False)
        assert not registry.trusts_code()  # a file that names it later is refused


def test_the_folder_of_the_photos_is_found(tmp_path: Path) -> None:
    maps = {"a/b/x.jpg": np.zeros((3, 4), np.uint8), "a/y.jpg": np.zeros((3, 4), np.uint8)}
    folder = open_predictions(write_predictions(tmp_path, maps))
    assert folder.root == tmp_path / "photos"
    assert [image.photo for image in folder.images] == ["a/b/x.jpg", "a/y.jpg"]
    with pytest.raises(PicieError):
        open_predictions(tmp_path)
    with pytest.raises(InputError):
        open_predictions(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", " a"])
def test_a_name_that_no_list_can_hold_is_left_out_of_voc_alone(tmp_path: Path, cli: Cli, name: str) -> None:
    predicted = write_predictions(tmp_path, {f"{name}.jpg": label_maps()["noise.jpg"], "c.jpg": label_maps()["rings.jpg"]})
    status, _, err = cli("convert", predicted, "--to", "voc", "--out", tmp_path / "voc")
    assert status == 1
    assert "a list of names cannot hold; rename the photo" in err
    assert (tmp_path / "voc/ImageSets/Segmentation/train.txt").read_text("utf-8") == "c\n"
    assert cli("convert", predicted, "--to", "yolo", "--out", tmp_path / "yolo")[0] == 0
    assert (tmp_path / "yolo" / "labels" / f"{name}.txt").is_file()
    assert cli("convert", predicted, "--to", "csv", "--out", tmp_path / "a.csv")[0] == 0
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert {row["picture"] for row in csv.DictReader(file)} == {f"{name}.jpg", "c.jpg"}


@pytest.mark.parametrize(("to", "out"), [("yolo", "out.zip"), ("voc", "voc.tar.gz"), ("cvat", "annotations.XML")])
def test_a_folder_is_not_named_like_a_file(predicted: Path, tmp_path: Path, refused: Refused, to: str, out: str) -> None:
    message = refused("convert", predicted, "--to", to, "--out", tmp_path / out)
    assert f"{to} writes a folder, not a {Path(out).suffix} file" in message
    assert not (tmp_path / out).exists()


def test_names_that_the_run_has_changed_since_are_warned_of(
    own_run: Path, labelled_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    assert cli("predict", own_run, labelled_folder / "images" / "val", "--out", out)[0] == 0
    command = ("convert", out, "--to", "csv", "--out", tmp_path / "a.csv", "--overwrite")
    assert cli(*command)[2] == ""
    assert cli("name", own_run, "0=sky")[0] == 0
    status, _, err = cli(*command)
    assert status == 0
    assert "the run has other ones now, e.g. 'sky' instead of 'green'; repeat `picie predict`" in err
