"""Which files of a folder are used as photos, and what is reported about the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import UNTRAINED, picture

from picie.data.folder import Folder
from picie.data.images import open_image
from picie.data.search import find_images, search_photos
from picie.errors import InputError, UnreadableImageError

Cli = Callable[..., tuple[int, str, str]]


def write_photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)[0]).save(path)


def write_label(path: Path, seed: int = 0, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    label = picture(seed)[1]
    colored = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)[label]
    image = {"L": Image.fromarray(label), "1": Image.fromarray(label == 1), "RGB": Image.fromarray(colored)}.get(mode)
    if image is None:
        image = Image.fromarray(label, "P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(path)


LAYOUTS = {  # photo, label
    "folders": ("images/p{}.jpg", "masks/p{}.png"),
    "splits": ("train/images/p{}.jpg", "train/labels/p{}.png"),
    "pascal voc": ("JPEGImages/p{}.jpg", "SegmentationClass/p{}.png"),
    "mmsegmentation": ("img_dir/train/p{}.jpg", "ann_dir/train/p{}.png"),
    "segnet": ("train/p{}.png", "trainannot/p{}.png"),
    "camvid": ("p{}.png", "p{}_L.png"),
    "suffix": ("p{}.jpg", "p{}_mask.png"),
    "prefix": ("p{}.png", "mask_p{}.png"),
    "same stem": ("p{}.jpg", "p{}.png"),
    "labelme": ("p{}_json/img.jpg", "p{}_json/label.png"),
    "cityscapes": ("leftImg8bit/a_{}_leftImg8bit.png", "fine/a_{}_gtFine_labelIds.png"),
    "nnunet": ("imagesTr/p{}.png", "labelsTr/p{}.png"),
    "other names, same stems": ("a/p{}.png", "b/p{}.png"),
    "tiff": ("rgb/p{}.tif", "ground_truth/p{}.tif"),
}


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_label_maps_beside_photos_are_left_out(tmp_path: Path, layout: str, mode: str) -> None:
    photo, label = LAYOUTS[layout]
    for i in range(4):
        write_photo(tmp_path / photo.format(i), i)
        write_label(tmp_path / label.format(i), i, mode)
    search = search_photos(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in search.images] == [photo.format(i) for i in range(4)]
    assert [p.relative_to(tmp_path).as_posix() for p in search.label_maps] == [label.format(i) for i in range(4)]
    assert f"4 images; left out 4 that look like label maps: e.g. {label.format(0)}" in search.summary()


def test_photos_with_such_names_are_used(tmp_path: Path) -> None:
    for i in range(3):
        write_photo(tmp_path / f"labels/p{i}.png", i)
        write_photo(tmp_path / f"masks/p{i}.png", i + 9)
        write_photo(tmp_path / f"p{i}_gt.png", i + 20)
    assert len(search_photos(tmp_path).images) == 9


def test_a_folder_of_label_maps_alone_is_used(tmp_path: Path) -> None:
    for i in range(3):
        write_label(tmp_path / f"masks/p{i}.png", i)
    assert len(search_photos(tmp_path).images) == 3


def test_training_and_prediction_leave_label_maps_out(cli: Cli, tmp_path: Path) -> None:
    for i in range(3):
        write_photo(tmp_path / f"d/p{i}.jpg", i)
        write_label(tmp_path / f"d/p{i}.png", i)
    status, _, err = cli("train", tmp_path / "d", *UNTRAINED, "--out", tmp_path / "run")
    assert status == 0
    assert "picie: warning: " in err and "3 images; left out 3 that look like label maps: p0.png, p1.png, p2.png" in err
    status, out, _ = cli("predict", tmp_path / "run", tmp_path / "d", "--out", tmp_path / "out")
    assert (status, out) == (0, f"3 images -> {tmp_path / 'out'}\n")
    status, out, _ = cli("predict", tmp_path / "run", tmp_path / "d", "--include", "p0.*", "--out", tmp_path / "both")
    assert (status, out) == (0, f"2 images -> {tmp_path / 'both'}\n")


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), ("masks/*",), ["a.jpg", "day/b.jpg", "day/c.png"]),
        ((), ("masks",), ["a.jpg", "day/b.jpg", "day/c.png"]),
        ((), ("masks/",), ["a.jpg", "day/b.jpg", "day/c.png"]),
        (("*.png",), (), ["day/c.png", "masks/d.png"]),
        (("day", "a.*"), ("*.png",), ["a.jpg", "day/b.jpg"]),
        (("day/?.jpg",), (), ["day/b.jpg"]),
    ],
)
def test_patterns_select_images(
    tmp_path: Path, include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]
) -> None:
    for i, name in enumerate(("a.jpg", "day/b.jpg", "day/c.png", "masks/d.png")):
        write_photo(tmp_path / name, i)
    data = Folder(tmp_path, include=include, exclude=exclude)
    assert [data.name(i) for i in range(len(data))] == expected


def test_patterns_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"data\.include and data\.exclude leave none of 1 images"):
        search_photos(tmp_path, ["*.png"])


def test_patterns_are_options_of_training(cli: Cli, refused: Callable[..., str], tmp_path: Path) -> None:
    for i in range(4):
        write_photo(tmp_path / f"d/{'ab'[i % 2]}{i}.jpg", i)
    status, _, err = cli("train", tmp_path / "d", "--exclude", "a*", *UNTRAINED, "--out", tmp_path / "run")
    assert status == 0 and "2 images" in err
    assert 'exclude = [\n    "a*",\n]' in (tmp_path / "run/config.toml").read_text("utf-8")
    assert "data.include: dataset 'scenes' does not support it" in refused("train", "scenes", "data.include=x", *UNTRAINED)


@pytest.mark.parametrize("suffix", ["avif", "jfif", "jpe", "pnm", "tga", "jp2", "webp", "bmp", "qoi", "HEIC", "heif"])
def test_all_formats_are_found_and_read(tmp_path: Path, suffix: str) -> None:
    kinds = {"jfif": "jpeg", "jpe": "jpeg", "pnm": "ppm", "jp2": "jpeg2000", "HEIC": "heif"}
    Image.fromarray(picture(0)[0]).save(tmp_path / f"a.{suffix}", kinds.get(suffix, suffix))
    (path,) = find_images(tmp_path)
    assert open_image(path).size == (64, 48)


def test_other_files_are_counted_by_ending(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg")
    for name in ("b.txt", "c.TXT", "d.json", "e.mov", "f", ".hidden.txt"):
        (tmp_path / name).touch()
    assert search_photos(tmp_path).summary() == f"{tmp_path}: 1 images; 5 other files: 2 .txt, 1 .json, 1 .mov, 1 no ending"


def test_thumbnails_of_systems_are_not_used(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg")
    for folder in ("@eaDir/a.jpg", "#recycle", ".thumbnails", "__MACOSX"):
        write_photo(tmp_path / folder / "t.jpg")
    assert find_images(tmp_path) == [tmp_path / "a.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipes_and_broken_links_are_not_opened(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    search = search_photos(tmp_path)
    assert search.images == [tmp_path / "a.jpg"]
    assert "2 not regular files, e.g. " in search.summary()
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        open_image(tmp_path / "pipe.jpg")


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(tmp_path / "a.jpg")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # root may read any folder
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"1 unreadable folders, e.g. {tmp_path / 'locked'} (Permission denied)" in search_photos(tmp_path).summary()


def test_a_labelled_folder_without_splits_is_explained(tmp_path: Path) -> None:
    for i in range(4):
        write_photo(tmp_path / f"images/p{i}.jpg", i)
    (tmp_path / "classes.toml").write_text('names = ["a"]\n', "utf-8")
    with pytest.raises(
        InputError, match=r"contains 4 images but no folder train/; move them to images/train/, or give .*images"
    ):
        Folder(tmp_path)


@pytest.mark.parametrize("name", ["palette.png", "color.png", "ann.png", "colours of 1983.png", "seg.png"])
def test_a_photo_whose_name_is_a_short_word_is_a_photo(tmp_path: Path, name: str) -> None:
    write_photo(tmp_path / "p0.jpg", 0)
    write_label(tmp_path / name)
    assert search_photos(tmp_path).label_maps == []


@pytest.mark.parametrize("name", ["p0_color.png", "seg-p0.png", "p0 gt.png", "mask.png"])
def test_a_word_beside_the_name_of_a_photo_is_a_label_map(tmp_path: Path, name: str) -> None:
    write_photo(tmp_path / "p0.jpg", 0)
    write_label(tmp_path / name)
    assert [path.name for path in search_photos(tmp_path).label_maps] == [name]


def test_a_summary_names_up_to_three_label_maps(tmp_path: Path) -> None:
    write_photo(tmp_path / "p0.jpg", 0)
    for n in range(3):
        write_label(tmp_path / f"mask{n}.png")
    names = "mask0.png, mask1.png, mask2.png (--include uses them)"
    assert f"left out 3 that look like label maps: {names}" in search_photos(tmp_path).summary()
    write_label(tmp_path / "mask3.png")
    assert f"left out 4 that look like label maps: e.g. {names}" in search_photos(tmp_path).summary()
