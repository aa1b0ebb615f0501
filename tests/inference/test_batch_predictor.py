"""`BatchPredictor`: a callable class for `map_batches` of Ray Data."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import picie
from picie.errors import InputError


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> picie.BatchPredictor:
    return picie.BatchPredictor(untrained, device="cpu")


@pytest.fixture
def files(labelled_folder: Path) -> list[Path]:
    return sorted((labelled_folder / "images").rglob("*.jpg"))


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_each_kind_of_column_gives_the_maps_of_the_segmenter(predictor: picie.BatchPredictor, files: list[Path]) -> None:
    expected = predictor.segmenter.predict(files, batch_size=1)
    assert len(np.unique(expected[0])) > 1
    columns = {
        "path": np.array([str(file) for file in files], dtype=object),
        "bytes": np.array([file.read_bytes() for file in files], dtype=object),
        "image": np.stack([np.asarray(Image.open(file)) for file in files]),
    }
    for name, values in columns.items():
        result = predictor({name: values, "id": np.arange(len(files))})
        assert list(result) == ["id", "labels", "error"]
        assert result["error"].tolist() == [""] * len(files)
        for labels, wanted in zip(result["labels"], expected, strict=True):
            assert np.array_equal(decoded(labels), wanted)


def test_a_picture_that_cannot_be_read_stops_no_other(predictor: picie.BatchPredictor, files: list[Path]) -> None:
    result = predictor({"bytes": np.array([b"x", files[0].read_bytes(), b""], dtype=object)})
    assert [len(labels) > 0 for labels in result["labels"]] == [False, True, False]
    assert "cannot be read as an image" in result["error"][0]
    assert result["error"][1] == ""
    assert predictor({"bytes": np.array([b"x"], dtype=object)})["labels"].tolist() == [b""]


def test_maps_can_be_arrays_of_several_sizes(untrained: Path) -> None:
    predictor = picie.BatchPredictor(untrained, column="photo", encoding="array", device="cpu")
    photos = np.empty(2, dtype=object)
    photos[0], photos[1] = np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20), np.uint8)
    assert [labels.shape for labels in predictor({"photo": photos})["labels"]] == [(20, 30), (30, 20)]


def test_wrong_options_give_one_line(predictor: picie.BatchPredictor, untrained: Path) -> None:
    with pytest.raises(InputError, match="batch: has the columns a, b, and none is image or bytes or path; give column"):
        predictor({"a": [], "b": []})
    with pytest.raises(InputError, match="encoding = 'jpeg': give png or array"):
        picie.BatchPredictor(untrained, encoding="jpeg")  # type: ignore[arg-type]


class KilledOnce(picie.BatchPredictor):
    """Its first actor is killed in its second batch."""

    def __call__(self, batch: Any) -> dict[str, Any]:
        marker = Path(os.environ["KILLED_ONCE"])
        if not hasattr(self, "calls"):
            self.calls = 0
        self.calls += 1
        if self.calls == 2:
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.mark.long
def test_the_example_survives_a_killed_actor(untrained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    ray = pytest.importorskip("ray")
    import pyarrow.parquet
    from examples.ray_predict import main
    from tests.conftest import picture

    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(40):
        Image.fromarray(picture(number)[0]).save(photos / f"{number:02}.jpg")
    (photos / "broken.jpg").write_bytes(b"x")
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed"))
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    try:
        main([str(untrained), str(photos), str(tmp_path / "maps"), "--batch-size", "4"], KilledOnce)
        assert (tmp_path / "killed").exists()
        main([str(untrained), str(photos), str(tmp_path / "shards"), "--to", "webdataset"])
    finally:
        ray.shutdown()
    rows = pyarrow.parquet.read_table(tmp_path / "maps").to_pylist()
    assert len({row["path"] for row in rows}) == len(rows) == 41
    segmenter = picie.Segmenter.load(untrained, "cpu")
    expected = {path.name: segmenter.predict(path) for path in photos.glob("[0-9]*.jpg")}
    for row in rows:
        name = Path(row["path"]).name
        assert bool(row["error"]) == (name == "broken.jpg")
        if not row["error"]:
            assert np.array_equal(decoded(row["labels"]), expected[name])
    members = []
    for shard in (tmp_path / "shards").iterdir():
        with tarfile.open(shard) as archive:
            members += archive.getnames()
    assert sum(name.endswith(".png") for name in members) == 40
