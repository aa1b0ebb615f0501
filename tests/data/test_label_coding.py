"""Label files: where they are found, how their values and colours are decoded, and what is noticed about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import COLORS

from picie.data.base import ClassMap
from picie.data.folder import Folder
from picie.data.label_coding import check_label, read_coding
from picie.data.label_statistics import LabelStatistics
from picie.errors import InputError

Cli = Callable[..., tuple[int, str, str]]
LABEL = np.array([[0, 1, 2, 1], [2, 2, 0, 255]], np.uint8)
TOML = 'names = ["a", "b", "c"]\ncolors = ["#000000", "#ff0000", "#00ff80"]\n'
RGB = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 128)], np.uint8)


def folder(root: Path, label: str, toml: str = TOML) -> Path:
    """A labelled folder of one image, a/p0.jpg, and the folder of its label, given by a path below the root."""
    (root / "images/val/a").mkdir(parents=True)
    Image.new("RGB", (4, 2)).save(root / "images/val/a/p0.jpg")
    (root / "classes.toml").write_text(toml, "utf-8")
    (root / label).parent.mkdir(parents=True)
    return root / label


@pytest.mark.parametrize(
    "name",
    [
        *("labels/val/a/p0.png", "labels/val/a/p0.PNG", "labels/val/a/p0.tif", "labels/val/a/p0.npy", "labels/val/a/P0.png"),
        *("labels/val/a/p0_mask.png", "labels/val/a/p0.jpg.png", "labels/val/a/p0_labelIds.png", "labels/val/a/p0_gt.tiff"),
        *("annotations/val/a/p0.png", "masks/val/a/p0.png", "gt/val/a/p0_label.bmp"),
    ],
)
def test_labels_are_found_by_usual_names(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path, name)
    np.save(path, LABEL) if path.suffix == ".npy" else Image.fromarray(LABEL).save(path)
    data = Folder(tmp_path, "val")
    assert np.array_equal(data.label(0), LABEL)
    assert data.label_path(0) == path


def test_a_suffix_may_be_stated_and_is_suggested(tmp_path: Path) -> None:
    path = folder(tmp_path, "labels/val/a/p0_foo.png")
    Image.fromarray(LABEL).save(path)
    with pytest.raises(InputError, match=r"no label for image .*p0\.jpg; found .*p0_foo\.png: set data\.label_suffix=_foo"):
        Folder(tmp_path, "val").label(0)
    assert np.array_equal(Folder(tmp_path, "val", label_suffix="_foo").label(0), LABEL)
    with pytest.raises(InputError, match=r"p0_bar\.png: no label"):
        Folder(tmp_path, "val", label_suffix="_bar").label(0)


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_the_classes_are_decoded(tmp_path: Path, alpha: bool) -> None:
    path = folder(tmp_path, "labels/val/a/p0.png")
    indices = LABEL.clip(0, 2)
    colors = RGB[indices]
    Image.fromarray(np.dstack([colors, np.full((2, 4), 255, np.uint8)]) if alpha else colors).save(path)
    assert np.array_equal(Folder(tmp_path, "val").label(0), indices)
    colors[0, 0] = (1, 2, 3)
    Image.fromarray(colors).save(path)
    with pytest.raises(InputError, match=r"p0\.png: colour #010203 is not in colors of classes\.toml"):
        Folder(tmp_path, "val").label(0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
@pytest.mark.parametrize("toml", [TOML, TOML.splitlines()[0]])
def test_grey_saved_as_colour_is_read_as_indices(tmp_path: Path, mode: str, toml: str) -> None:
    path = folder(tmp_path, "labels/val/a/p0.png", toml)
    Image.fromarray(LABEL).convert(mode).save(path)
    assert np.array_equal(Folder(tmp_path, "val").label(0), LABEL)


def test_stored_values_may_be_stated(tmp_path: Path) -> None:
    path = folder(tmp_path, "labels/val/a/p0.png", 'names = ["a", "b"]\nvalues = [0, 255]\n')
    Image.fromarray(np.array([[0, 255, 255, 0]] * 2, np.uint8)).save(path)
    assert Folder(tmp_path, "val").label(0).tolist() == [[0, 1, 1, 0]] * 2
    (tmp_path / "classes.toml").write_text('names = ["a", "b"]\nvalues = [1, 7]\nignore = 0\n', "utf-8")
    Image.fromarray(np.array([[0, 1, 7, 7]] * 2, np.uint8)).save(path)
    assert Folder(tmp_path, "val").label(0).tolist() == [[255, 0, 1, 1]] * 2
    Image.fromarray(np.array([[0, 1, 7, 9]] * 2, np.uint8)).save(path)
    with pytest.raises(InputError, match=r"value 9 is neither in values \(1, 7\) nor ignore \(0\)"):
        Folder(tmp_path, "val").label(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("values = [0]", "values must be a list of 2 different integers"),
        ("values = [0, 0]", "values must be a list of 2 different integers"),
        ('values = [0, "1"]', "values must be a list of 2 different integers"),
        ("values = [0, 3]\nignore = 3", "ignore = 3 is also in values"),
    ],
)
def test_values_that_cannot_be_used_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "classes.toml").write_text(f'names = ["a", "b"]\n{content}\n', "utf-8")
    with pytest.raises(InputError, match=message):
        read_coding(tmp_path / "classes.toml")


def seen(*labels: np.ndarray) -> LabelStatistics:
    statistics = LabelStatistics()
    for label in labels:
        statistics.add(label, Path("none.npy"))
    return statistics


def test_the_share_of_ignored_pixels_and_the_values_are_counted() -> None:
    statistics = seen(LABEL, LABEL)
    assert statistics.summary([255]) == {"ignored": 12.5, "values": [0, 1, 2, 255], "files": 2}
    assert statistics.warnings(["a", "b", "c"], None, 255) == []


def test_values_that_probably_mean_something_else_are_noticed() -> None:
    binary = np.array([[0, 255, 255, 0]], np.uint8)
    (line,) = seen(binary).warnings(["background", "road"], None, 255)
    assert "class 'road' does not occur, and 50.0 % of the pixels are ignored (value 255)" in line
    assert "if 255 means 'road', set values = [0, 255] in classes.toml" in line
    assert seen(binary).warnings(["background", "road"], (0, 255), -1) == []
    (line,) = seen(np.array([[1, 2, 2]])).warnings(["a", "b", "c"], None, 255)
    assert "value 0 ('a') does not occur, the labels have 1, 2; if they count from 1" in line


def test_an_unlabelled_value_0_and_ids_from_1_are_noticed() -> None:
    shifted, names = np.array([[0, 1, 2, 2]], np.uint8), ["sky", "building", "road", "tree"]
    (line,) = seen(shifted, shifted).warnings(names, None, 255)
    assert "every file has value 0, which means 'sky': if 0 marks pixels without a class and the ids count from 1" in line
    assert "they fit another numbering; set ignore = 0 and values = [1, ..., 4]" in line
    assert seen(shifted).warnings(["background", *names[1:]], None, 255) == []
    assert seen(shifted).warnings(names, (0, 1, 2, 3), 255) == []  # stated
    assert seen(np.append(shifted, [[255]], 1)).warnings(names, None, 255) == []  # 255 is in use
    assert seen(shifted, shifted[:, 1:]).warnings(names, None, 255) == []  # a file without 0
    assert seen(np.arange(4)[None]).warnings(names, None, 255) == []  # every class occurs
    with pytest.raises(InputError, match=r"label value 4 is not a class .* set ignore = 0 and values = \[1, ..., 4\]"):
        check_label(np.arange(5)[None], ClassMap(tuple(names), ("#000000",) * 4), "x.png")


def test_contradictory_palettes_are_noticed(tmp_path: Path) -> None:
    statistics = LabelStatistics()
    for number, palette in enumerate(([0, 0, 0, 255, 0, 0], [0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0])):
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
        image.putpalette(palette)
        image.save(tmp_path / f"{number}.png")
        statistics.add(np.array([[0, 1]]), tmp_path / f"{number}.png")
        assert bool(statistics.warnings(["a", "b"], None, 255)) == (number == 2)
    assert "2.png: value 0 has another colour than in other files" in statistics.warnings(["a", "b"], None, 255)[0]


def test_evaluation_shows_what_was_seen(cli: Cli, trained: Path, own_folder: Path) -> None:
    status, out, err = cli("evaluate", trained, "--data", own_folder, "--bootstrap", "0")
    assert status == 0
    assert "labels: ignored pixels 8.3 %; values 0..2, 255" in out  # 4 of 48 rows
    for path in (own_folder / "labels/val").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 1, 0, 255).astype(np.uint8)).save(path)
    status, _, err = cli("evaluate", trained, "--data", own_folder, "--bootstrap", "0")
    assert status == 0
    assert "picie: warning: " in err and "class 'green' does not occur" in err
    assert len(COLORS) == 3


@pytest.mark.parametrize("void", [(0, 0, 0), (224, 224, 192)])
def test_usual_void_colours_are_ignored(tmp_path: Path, void: tuple[int, int, int]) -> None:
    path = folder(tmp_path, "labels/val/a/p0.png", TOML.replace("#000000", "#0a0a0b"))
    colors = np.where((LABEL == 255)[..., None], void, np.array([(10, 10, 11), *RGB[1:]])[LABEL.clip(0, 2)])
    Image.fromarray(colors.astype(np.uint8)).save(path)
    data = Folder(tmp_path, "val")
    assert np.array_equal(data.label(0), LABEL)
    assert data.label_summary() == ({"ignored": 12.5, "values": [0, 1, 2, 255], "files": 1}, [])
