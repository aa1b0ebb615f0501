"""Pictures in tar files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import UNTRAINED, picture
from tests.tiny_datasets import write_shards

from picie.data.folder import Folder
from picie.data.shards import Shards
from picie.errors import InputError, UnreadableImageError
from picie.inference.sampling import training_images
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import keywords

Cli = Callable[..., tuple[int, str, str]]


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)[0]).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards with two pictures each, in no order, and other files beside them."""
    folder = tmp_path / "shards"
    for number in range(3):
        members = {f"{2 * number + i:04d}.jpg": encoded(2 * number + i) for i in (1, 0)}
        write_tar(folder / f"{number:03d}.tar", {**members, f"{2 * number:04d}.json": b"{}", "._0000.jpg": b"x", "a.txt": b""})
    return folder


def test_names_and_pixels_are_those_of_the_members(shards: Path) -> None:
    data = Shards(shards)
    names = ["000/0000.jpg", "000/0001.jpg", "001/0002.jpg", "001/0003.jpg", "002/0004.jpg", "002/0005.jpg"]
    assert [data.name(i) for i in range(len(data))] == names
    for index in (5, 0, 3):
        assert np.array_equal(np.asarray(data.image(index)), np.asarray(Image.open(io.BytesIO(encoded(index)))))
    assert data.classes is None


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{000..001}.tar", ["000/0000.jpg", "000/0001.jpg", "001/0002.jpg", "001/0003.jpg"]),
        ("00[12].tar", None),
        ("*2.tar", ["002/0004.jpg", "002/0005.jpg"]),
        ("001.tar", ["001/0002.jpg", "001/0003.jpg"]),
    ],
)
def test_patterns_name_shards(shards: Path, pattern: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(InputError, match="no such tar file"):
            Shards(shards / pattern)
        return
    data = Shards(shards / pattern)
    assert [data.name(i) for i in range(len(data))] == names


def test_a_sample_has_one_picture_and_its_label(tmp_path: Path) -> None:
    label = io.BytesIO()
    Image.fromarray(picture(0)[1]).save(label, "PNG")
    files = {
        "train/b.jpg": encoded(0),
        "train/b.png": label.getvalue(),
        "train/c.png": encoded(1, "PNG"),
        "train/c.seg.png": label.getvalue(),
        "train/d.JPG": encoded(2),
    }
    root = tmp_path / "data"
    write_tar(root / "train-000.tar", files)
    (root / "classes.toml").write_text('names = ["a", "b", "c"]\n')
    data = Shards(root)
    assert [data.name(i) for i in range(3)] == ["train-000/train/b.jpg", "train-000/train/c.png", "train-000/train/d.JPG"]
    for index in (0, 1):
        assert np.array_equal(data.label(index), picture(0)[1])
    with pytest.raises(InputError, match=r"train-000\.tar: train/d\.JPG: no label for this picture"):
        data.label(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a tar file at all" * 100, "cannot be read as a tar file"), (None, "tar files without a picture")],
)
def test_what_is_no_shard_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.tar"
    if content is None:
        write_tar(path, {"a.txt": b"text"})
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Shards(path)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    data = Shards(write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0)[:300], "b.jpg": encoded(1)}))
    assert data.image(1).size == (64, 48)
    with pytest.raises(UnreadableImageError, match=r"x\.tar: a\.jpg: cannot be read as an image"):
        data.image(0)


def test_a_folder_of_shards_is_pointed_out(shards: Path) -> None:
    with pytest.raises(InputError, match=r"data\.name=webdataset data\.root="):
        Folder(shards)


def test_a_pattern_without_quotes_is_explained(refused: Callable[..., str], shards: Path) -> None:
    assert "put a pattern of tar files in quotes" in refused("train", shards / "000.tar", shards / "001.tar", "-k", 3)


def test_labels_are_not_opened_for_training(tmp_path: Path) -> None:
    root = write_shards(tmp_path / "data")
    spoilt = {"000.jpg": encoded(0), "000.seg.png": b"a label that nobody may open"}
    write_tar(root / "train" / "000.tar", spoilt)
    data = Shards(root)
    assert data.image(0).mode == "RGB"
    with pytest.raises(InputError, match="cannot be read as a label map"):
        data.label(0)


def test_a_run_on_shards_is_that_on_their_files(cli: Cli, shards: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    for number in range(3):
        with tarfile.open(shards / f"{number:03d}.tar") as tar:
            tar.extractall(files / f"{number:03d}", [m for m in tar if m.name.endswith(".jpg")], filter="data")
    for data, out in ((shards / "{000..002}.tar", "a"), (files, "b")):
        status, _, err = cli("train", data, *UNTRAINED, "--out", tmp_path / out)
        assert status == 0, err
    ours, theirs = (RunRecord(tmp_path / out).read() for out in "ab")
    assert ours["digest"] == theirs["digest"]  # names and pixels
    lines = [{k: v for k, v in read_metrics(tmp_path / out)[0].items() if k in ("inertia", "imbalance")} for out in "ab"]
    assert lines[0] == lines[1]
    config = keywords.config_of(str(shards / "{000..002}.tar"), {})
    assert len(training_images(config.data)) == 6
    assert keywords.default_folder(config).name == "shards-picie-k27-s0"
