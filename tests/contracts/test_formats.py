"""What holds for every registered annotation format: each is read back by its own library, and the pixels are equal."""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from pyarrow import parquet
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from rasterio.features import rasterize
from tests.conversion.predicted import IGNORE, NAMES, label_maps, write_predictions
from torchvision.datasets import VOCSegmentation

from picie import registry
from picie.conversion.base import ConvertOptions, Format
from picie.conversion.convert import convert, default_name
from picie.errors import InputError

Maps = dict[str, np.ndarray]
Reader = Callable[[Path, Maps], Maps]
NOTHING = 65535


def painted(shape: tuple[int, ...], objects: Iterator[tuple[int, np.ndarray]]) -> np.ndarray:
    """The map (H, W) of objects (value, mask (H, W)), which must not overlap."""
    labels = np.full(shape, NOTHING)
    for value, mask in objects:
        assert (labels[mask] == NOTHING).all()
        labels[mask] = value
    return labels


def filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels of a polygon (n, 2) by the even-odd rule, (H, W) bool."""
    (rle,) = coco_masks.frPyObjects([points.reshape(-1).tolist()], height, width)
    return coco_masks.decode(rle).astype(bool)


def read_coco(out: Path, maps: Maps) -> Maps:
    data = COCO(str(out))
    assert [category["name"] for category in data.loadCats(data.getCatIds())][: len(NAMES)] == list(NAMES) or len(data.cats) > 5
    result = {}
    for image in data.loadImgs(data.getImgIds()):
        annotations = data.loadAnns(data.getAnnIds(image["id"]))
        for annotation in annotations:
            mask = data.annToMask(annotation)
            rows, columns = np.nonzero(mask)
            size = [columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
            assert annotation["bbox"] == [columns.min(), rows.min(), *size]
            assert annotation["area"] == mask.sum()
        objects = ((annotation["category_id"] - 1, data.annToMask(annotation) > 0) for annotation in annotations)
        result[image["file_name"]] = painted((image["height"], image["width"]), objects)
    return result


def read_yolo(out: Path, maps: Maps) -> Maps:
    assert yaml.safe_load((out / "data.yaml").read_text("utf-8"))["path"] == str(out)
    result = {}
    for photo, labels in maps.items():
        height, width = labels.shape
        assert (out / "images" / photo).is_file()
        lines = (out / "labels" / Path(photo).with_suffix(".txt")).read_text().splitlines()
        rows = [(int(line.split()[0]), np.array(line.split()[1:], float).reshape(-1, 2)) for line in lines]
        assert all(((points >= 0) & (points <= 1)).all() for _, points in rows)
        objects = ((value, filled(points * (width, height), height, width)) for value, points in rows)
        result[photo] = painted(labels.shape, objects)
    return result


def read_voc(out: Path, maps: Maps) -> Maps:
    copy = out.parent / "VOCdevkit" / "VOC2012"
    shutil.copytree(out, copy)
    data = VOCSegmentation(str(out.parent), year="2012", image_set="train")
    result = {}
    for index, photo in enumerate(sorted(maps, key=lambda photo: photo.rpartition(".")[0])):
        image, mask = data[index]
        assert data.images[index].endswith(f"{photo.rpartition('.')[0]}.jpg")
        assert image.size == mask.size
        values = np.asarray(mask).astype(int)
        assert 0 not in values
        result[photo] = np.where(values == 255, NOTHING, values - 1)
    return result


def read_label_studio(out: Path, maps: Maps) -> Maps:
    from label_studio_sdk.converter import brush

    interface = ElementTree.parse(out / "interface.xml")
    names = [label.attrib["value"] for label in interface.iter("Label")]
    result = {}
    for task in json.loads((out / "tasks.json").read_text()):
        photo = unquote(task["data"]["image"]).removeprefix("/data/local-files/?d=photos/")
        height, width = maps[photo].shape
        objects = []
        for item in task["predictions"][0]["result"]:
            assert (item["original_width"], item["original_height"]) == (width, height)
            value = item["value"]
            if item["type"] == "brushlabels":
                mask = brush.decode_rle(value["rle"]).reshape(height, width, 4)[..., 3] > 0
            else:
                mask = filled(np.array(value["points"]) / 100 * (width, height), height, width)
            objects.append((names.index(value[item["type"]][0]), mask))
        result[photo] = painted((height, width), iter(objects))
    return result


def read_cvat(out: Path, maps: Maps) -> Maps:
    """CVAT's own reader is part of its server; this follows the description of its XML and of its masks."""
    root = ElementTree.parse(out / "annotations.xml").getroot()
    names = [name.text for name in root.findall("meta/task/labels/label/name")]
    assert names == [label["name"] for label in json.loads((out / "labels.json").read_text())]
    result = {}
    for image in root.findall("image"):
        height, width = int(image.attrib["height"]), int(image.attrib["width"])
        objects = []
        for shape in image:
            if shape.tag == "mask":
                left, top, w, h = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
                lengths = list(map(int, shape.attrib["rle"].split(",")))
                mask = np.zeros((height, width), bool)
                mask[top : top + h, left : left + w] = np.repeat(np.arange(len(lengths)) % 2 > 0, lengths).reshape(h, w)
            else:
                points = np.array([point.split(",") for point in shape.attrib["points"].split(";")], float)
                mask = filled(points, height, width)
            objects.append((names.index(shape.attrib["label"]), mask))
        result[image.attrib["name"]] = painted((height, width), iter(objects))
    return result


def read_geojson(out: Path, maps: Maps) -> Maps:
    result = {}
    for photo, labels in maps.items():
        features = json.loads((out / Path(photo).with_suffix(".geojson")).read_text())["features"]
        shapes = [(feature["geometry"], feature["properties"]["value"]) for feature in features]
        result[photo] = rasterize(shapes, labels.shape, NOTHING, dtype="int32") if shapes else np.full(labels.shape, NOTHING)
    return result


READERS: dict[str, Reader] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "labelstudio": read_label_studio,
    "cvat": read_cvat,
    "geojson": read_geojson,
}
TABLES = {
    "csv": lambda out: list(csv.DictReader(out.open(encoding="utf-8", newline=""))),
    "parquet": lambda out: parquet.read_table(out).to_pylist(),
}
every_format = pytest.mark.parametrize("name", registry.FORMATS)


def find(name: str) -> type[Format]:
    made: type[Format] = registry.find(registry.FORMATS, name, "test")
    return made


def exact(name: str, shape: str) -> ConvertOptions:
    """Options under which no pixel is lost."""
    uses = find(name).options
    return ConvertOptions(shape=shape if "shape" in uses else "mask", tolerance=0 if "tolerance" in uses else 1.0)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of predictions of `label_maps()`. Read it only."""
    return write_predictions(tmp_path_factory.mktemp("formats"), label_maps())


def test_every_format_is_read_back() -> None:
    assert {*READERS, *TABLES} == set(registry.FORMATS)


@pytest.mark.parametrize("shape", ["mask", "polygon"])
@pytest.mark.parametrize("name", READERS)
def test_the_pixels_are_read_back(name: str, shape: str, predicted: Path, tmp_path: Path) -> None:
    maps, out = label_maps(), tmp_path / default_name(name)
    summary = convert(predicted, name, out, exact(name, shape), progress=False)
    assert (summary.converted, summary.skipped) == (len(maps), {})
    result = READERS[name](out, maps)
    assert set(result) == set(maps)
    for photo, labels in maps.items():
        assert np.array_equal(result[photo], np.where(labels == IGNORE, NOTHING, labels.astype(int))), photo


@pytest.mark.parametrize("name", TABLES)
def test_tables_count_the_pixels(name: str, predicted: Path, tmp_path: Path) -> None:
    maps, out = label_maps(), tmp_path / default_name(name)
    convert(predicted, name, out, progress=False)
    rows = TABLES[name](out)
    counted = {(row["picture"], row["segment"]): (int(row["pixels"]), float(row["share"])) for row in rows}
    expected = {}
    for photo, labels in maps.items():
        for value, count in zip(*np.unique(labels[labels != IGNORE], return_counts=True), strict=True):
            expected[photo, NAMES[value]] = (int(count), pytest.approx(count / (labels != IGNORE).sum(), abs=1e-6))
    assert counted == expected
    assert {row["m2"] for row in rows} <= {None, ""}


@every_format
def test_hundreds_of_segments_are_converted_or_refused(name: str, tmp_path: Path) -> None:
    names = tuple(f"cluster {i}" for i in range(300))
    maps = {"many.jpg": np.arange(300).reshape(15, 20)}
    folder, out = write_predictions(tmp_path, maps, names), tmp_path / default_name(name)
    if name == "voc":
        with pytest.raises(InputError, match="holds at most 254 segments, not 300"):
            convert(folder, name, out, progress=False)
        assert not out.exists()
        return
    convert(folder, name, out, exact(name, "mask"), progress=False)
    if name in TABLES:
        assert [int(row["value"]) for row in TABLES[name](out)] == list(range(300))
    else:
        assert np.array_equal(READERS[name](out, maps)["many.jpg"], maps["many.jpg"])


@every_format
def test_one_damaged_map_does_not_stop_the_others(name: str, tmp_path: Path, told: list[str]) -> None:
    maps = label_maps()
    folder, out = write_predictions(tmp_path, maps), tmp_path / default_name(name)
    (folder / "noise.png").write_bytes(b"\x89PNG")
    summary = convert(folder, name, out, progress=False)
    assert summary.converted == len(maps) - 1
    assert list(summary.skipped) == ["noise"]
    assert [line for line in told if "noise.png: cannot be read as a label map" in line]
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="none of the 5 predictions can be converted; the first: "):
        convert(folder, name, out, overwrite=True, progress=False)


@every_format
def test_an_earlier_file_is_replaced_only_if_asked(name: str, predicted: Path, tmp_path: Path) -> None:
    out = tmp_path / default_name(name)
    convert(predicted, name, out, progress=False)
    with pytest.raises(InputError, match="exists already; give another name, or --overwrite"):
        convert(predicted, name, out, progress=False)
    assert convert(predicted, name, out, overwrite=True, progress=False).converted == 5
    assert list(tmp_path.iterdir()) == [out]
