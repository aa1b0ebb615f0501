"""Any folder of images, and the labelled layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from picie.config import DataConfig
from picie.data import open_dataset
from picie.data.base import ClassMap, Dataset, MissingSplitError
from picie.data.folder import Folder
from picie.data.label_coding import check_label, read_coding
from picie.display.colors import palette, rgb_to_hex
from picie.errors import InputError, UnreadableImageError

TOML = 'names = ["a", "b"]\ncolors = ["#000000", "#ffffff"]\n'


def test_a_labelled_folder_has_splits_classes_and_labels(labelled_folder: Path) -> None:
    data = Folder(labelled_folder, "train")
    assert isinstance(data, Dataset)
    assert len(data) == 6
    assert [data.name(i) for i in range(6)] == [f"{i:03d}.jpg" for i in range(6)]
    assert data.classes == ClassMap(("red", "green", "blue"), ("#dc2828", "#28b43c", "#3c50dc"), 255)
    assert data.image(3).size == (64, 48)
    assert data.label(3).shape == (48, 64)
    assert np.array_equal(data.label(3), np.asarray(Image.open(labelled_folder / "labels/train/003.png")))
    assert len(Folder(labelled_folder, "val")) == 2


def test_any_other_folder_is_searched_and_has_one_split(tmp_path: Path) -> None:
    for name in ("b/x.png", "a/deep/y.JPG", "a/b c é.png", "z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    for split in ("train", "val", "whatever"):
        data = Folder(tmp_path, split)
        assert [data.name(i) for i in range(len(data))] == ["a/b c é.png", "a/deep/y.JPG", "b/x.png", "z.png"]
        assert data.classes is None
    with pytest.raises(InputError, match="has no labels"):
        data.label(0)


def test_a_split_without_labels_is_unlabelled(own_folder: Path) -> None:
    for label in (own_folder / "labels" / "val").iterdir():
        label.unlink()
    (own_folder / "labels" / "val").rmdir()
    assert Folder(own_folder, "val").classes is None
    assert Folder(own_folder, "train").classes is not None


def test_splits_are_joined_with_plus(labelled_folder: Path) -> None:
    train, val, both = (Folder(labelled_folder, split) for split in ("train", "val", "train+val"))
    assert len(both) == len(train) + len(val) == 8
    assert both.name(0) == f"train/{train.name(0)}" and both.paths == train.paths + val.paths
    assert np.array_equal(both.label(7), val.label(1))
    with pytest.raises(MissingSplitError, match="no split 'test'"):
        Folder(labelled_folder, "train+test")


def test_held_out_images_are_scored_and_never_trained_on(labelled_folder: Path) -> None:
    names = [Path(name).name for name in map(Folder(labelled_folder, "train").name, range(6))]
    config = DataConfig(root=str(labelled_folder), held_out=(names[1], names[4]))
    trained, scored = (open_dataset(config, "train", part) for part in ("train", "scored"))
    assert [scored.name(i) for i in range(len(scored))] == [names[1], names[4]]
    assert [trained.name(i) for i in range(len(trained))] == [n for n in names if n not in (names[1], names[4])]
    assert len(open_dataset(config, "train")) == 6
    # A pattern is of file names, not of the folders of joined splits, and does not override `include`.
    joined = DataConfig(root=str(labelled_folder), held_out=("t*",))
    with pytest.raises(InputError, match="held_out leaves none of 8"):
        open_dataset(joined, "train+val", "scored")
    both = config.model_copy(update={"include": (names[4], names[5])})
    assert [open_dataset(both, "train", "scored").name(0)] == [names[4]]
    assert len(open_dataset(both, "train", "train")) == 1


def test_labels_of_nested_images_have_the_same_path(own_folder: Path) -> None:
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        (own_folder / kind / "val" / "town").mkdir()
        (own_folder / kind / "val" / f"100{suffix}").rename(own_folder / kind / "val" / "town" / f"100{suffix}")
    data = Folder(own_folder, "val")
    assert [data.name(i) for i in range(2)] == ["101.jpg", "town/100.jpg"]
    assert data.label(1).shape == (48, 64)


def test_invalid_folders_are_refused(own_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        Folder(own_folder / "classes.toml")
    with pytest.raises(InputError, match=r"no split 'vall'; did you mean 'val'"):
        Folder(own_folder, "vall")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("hi")
    with pytest.raises(InputError, match="no image file in it or below it"):
        Folder(tmp_path / "empty")


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("images", "annotations"), ("leftImg8bit", "gtFine"), ("images", "stuffthingmaps")],
)
def test_label_maps_are_not_taken_for_photos(tmp_path: Path, images: str, labels: str) -> None:
    for kind in (images, labels):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / kind / "x.png")
    with pytest.raises(InputError, match=rf"has {images}/ and {labels}/ but no classes\.toml; .* data\.name=NAME"):
        Folder(tmp_path)
    assert len(Folder(tmp_path / images)) == 1


def test_a_label_that_does_not_fit_is_refused(own_folder: Path) -> None:
    data, path = Folder(own_folder, "val"), own_folder / "labels" / "val" / "100.png"
    good = np.asarray(Image.open(path)).copy()

    wrong = good.copy()
    wrong[7, 9] = 77
    Image.fromarray(wrong).save(path)
    with pytest.raises(InputError, match=r"100\.png: label value 77 is not a class \(0\.\.2\) and not ignore \(255\)"):
        data.label(0)
    Image.fromarray(good[:, :60]).save(path)
    with pytest.raises(InputError, match=r"label is 60x48 but its image .*100\.jpg is 64x48"):
        data.label(0)
    Image.new("RGB", (64, 48), (9, 8, 7)).save(path)
    with pytest.raises(InputError, match=r"colour #090807 is not in colors of classes\.toml"):
        data.label(0)
    path.unlink()
    with pytest.raises(InputError, match=r"no label for image .*100\.jpg"):
        data.label(0)


def test_a_label_of_a_turned_photo_has_its_upright_size(own_folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image, label = own_folder / "images" / "val" / "100.jpg", own_folder / "labels" / "val" / "100.png"
    Image.open(image).transpose(Image.Transpose.ROTATE_90).save(image, exif=exif)  # stored 48 x 64, shown 64 x 48
    data = Folder(own_folder, "val")
    assert data.image(0).size == (64, 48)
    assert data.label(0).shape == (48, 64)
    Image.open(label).transpose(Image.Transpose.ROTATE_90).save(label)
    with pytest.raises(InputError, match="label is 48x64"):
        data.label(0)


def test_an_unreadable_image_is_distinguished_from_a_bad_label(own_folder: Path) -> None:
    (own_folder / "images" / "val" / "100.jpg").write_bytes(b"garbage")
    data = Folder(own_folder, "val")
    for read in (data.image, data.label):
        with pytest.raises(UnreadableImageError, match=r"100\.jpg"):
            read(0)


def test_check_label_knows_classes_and_ignore() -> None:
    classes = ClassMap(("a", "b"), ("#000000", "#ffffff"), ignore=-1)
    check_label(np.array([[0, 1, -1]]), classes, "here")
    for value in (2, -2, 255):
        with pytest.raises(InputError, match=f"here: label value {value} is not a class"):
            check_label(np.array([[0, value]]), classes, "here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names = [", "not valid TOML"),
        (TOML + "ignored = 3\n", "unknown key 'ignored'; did you mean 'ignore'"),
        ('names = ["a"]\ncolors = "red"\n', "colors must be a list of strings"),
        ('names = [1]\ncolors = ["#000000"]\n', "names must be a list of strings"),
        (TOML.replace('"a"', '"b"'), "name 'b' occurs twice"),
        (TOML.replace(', "b"', ""), "1 names but 2 colors"),
        (TOML.replace("#ffffff", "white"), "'white' is not of the form"),
        ("names = []\ncolors = []\n", "no class names"),
        (TOML + "ignore = 1\n", "ignore = 1 is also the class 'b'"),
        (TOML + "ignore = true\n", "ignore must be an integer"),
        (TOML + 'ignore = "255"\n', "ignore must be an integer"),
    ],
)
def test_an_invalid_classes_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "classes.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError) as error:
        read_coding(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_ignore_is_255_unless_given(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text(TOML, "utf-8")
    assert read_coding(tmp_path / "classes.toml").classes == ClassMap(("a", "b"), ("#000000", "#ffffff"), 255)
    (tmp_path / "classes.toml").write_text(TOML + "ignore = 9\n", "utf-8")
    assert read_coding(tmp_path / "classes.toml").classes.ignore == 9


def test_open_dataset_opens_the_named_dataset(labelled_folder: Path) -> None:
    assert len(open_dataset(DataConfig(root=str(labelled_folder)), "val")) == 2
    assert open_dataset(DataConfig(name="scenes"), "val").image(0).size == (240, 160)
    with pytest.raises(InputError, match="needs a folder"):
        open_dataset(DataConfig(), "train")
    with pytest.raises(InputError, match="'scenes' takes no folder"):
        open_dataset(DataConfig(name="scenes", root="somewhere"), "train")
    with pytest.raises(InputError, match=r"unknown name 'scene'; did you mean 'scenes'"):
        open_dataset(DataConfig(name="scene"), "train")


def test_colours_are_chosen_where_none_are_given(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text('names = ["a", "b"]\n', "utf-8")
    assert read_coding(tmp_path / "classes.toml").classes.colors == tuple(rgb_to_hex(color) for color in palette(2))


@pytest.mark.parametrize(
    ("move", "part"),
    [
        (("labels", "classes"), "has no folder labels/: it has classes/; rename the right one"),
        (("labels/val", "labels/validation"), "has no folder val/: it has train/, validation/; rename the right one"),
    ],
)
def test_why_labels_are_not_used(own_folder: Path, move: tuple[str, str], part: str) -> None:
    assert Folder(own_folder, "val").why_unlabelled is None
    (own_folder / move[0]).rename(own_folder / move[1])
    assert part in str(Folder(own_folder, "val").why_unlabelled)


def test_a_folder_with_classes_but_without_images_says_so(own_folder: Path) -> None:
    (own_folder / "images").rename(own_folder / "imgs")
    assert "has no folder images/: it has imgs/, labels/; rename the right one" in str(Folder(own_folder).why_unlabelled)
    (own_folder / "classes.toml").unlink()
    assert Folder(own_folder).why_unlabelled is None
