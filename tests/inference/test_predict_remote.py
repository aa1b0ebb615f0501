"""`picie predict` with photos and results on object stores: fsspec's memory back end, and a web server."""

from __future__ import annotations

import errno
import functools
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from picie.errors import InputError, PicieError, Stopped
from picie.inference import remote_files
from picie.inference.predict import predict_files
from picie.inference.prediction_options import PredictOptions, Summary
from picie.inference.remote_files import Fetched, RemoteFile, RemoteRoot, fetched
from picie.inference.segmenter import Segmenter
from picie.inference.shard_record import gather
from picie.inference.sharding import Shard

Refused = Callable[..., str]
OUT = "memory://bucket/maps"


@pytest.fixture(autouse=True)
def _loaded_once(untrained: Path, monkeypatch: Any) -> None:
    """Load the run once for all calls of a test."""
    segmenter = Segmenter.load(untrained, "cpu")
    monkeypatch.setattr(Segmenter, "from_state", lambda *_: segmenter)


@pytest.fixture
def photos(tmp_path: Path, labelled_folder: Path) -> Path:
    """Photos, one of 16 bits, one that is damaged, and files that are not photos."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    source = Image.open(labelled_folder / "images" / "val" / "100.jpg")
    for name in ("a.jpg", "b c.jpg", "deep/a.jpg"):
        source.save(root / name)
    Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)).save(root / "deep" / "e.png")
    (root / "broken.jpg").write_bytes(b"x")
    return root


@pytest.fixture
def bucket(photos: Path) -> Iterator[str]:
    """The photos on the memory back end, beside a hidden file and an output of picie."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    store = fsspec.filesystem("memory")
    for path in photos.rglob("*.*"):
        store.pipe_file(f"/bucket/photos/{path.relative_to(photos).as_posix()}", path.read_bytes())
    for name in (".hidden.jpg", "out/predictions.json", "out/map.png", "@eaDir/a.jpg", "notes.txt"):
        store.pipe_file(f"/bucket/photos/{name}", b"not a photo")
    yield "memory://bucket/photos"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def remote_content(url: str) -> dict[str, bytes]:
    store, path = fsspec.core.url_to_fs(url)
    return {name.removeprefix(f"{path}/"): store.cat_file(name) for name in store.find(path)}


def local_content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_record(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != "predictions.json"}


def test_remote_photos_and_results_equal_local_ones(untrained: Path, photos: Path, bucket: str, tmp_path: Path) -> None:
    predict_files(untrained, [photos], tmp_path / "local")
    summary = predict_files(untrained, [bucket], OUT)
    assert summary.predicted == 4
    assert list(summary.skipped) == [f"{bucket}/broken.jpg"]
    assert summary.skipped[f"{bucket}/broken.jpg"].startswith(f"{bucket}/broken.jpg: cannot be read as an image")
    assert without_record(remote_content(OUT)) == without_record(local_content(tmp_path / "local"))
    ours, theirs = (
        json.loads(text)
        for text in (remote_content(OUT)["predictions.json"], (tmp_path / "local/predictions.json").read_text())
    )
    assert {url.removeprefix(f"{bucket}/"): {**entry, "source": 0} for url, entry in ours["images"].items()} == {
        Path(path).relative_to(photos).as_posix(): {**entry, "source": 0} for path, entry in theirs["images"].items()
    }
    assert ours["scale"] == theirs["scale"] != {}


def test_remote_to_local_and_back(untrained: Path, photos: Path, bucket: str, tmp_path: Path) -> None:
    assert predict_files(untrained, [f"{bucket}/deep/a.jpg"], tmp_path / "out").predicted == 1
    assert (tmp_path / "out" / "a.png").is_file()
    assert predict_files(untrained, [photos / "a.jpg"], OUT).predicted == 1
    assert {"a.png", "a_overlay.jpg", "legend.png", "predictions.json"} == set(remote_content(OUT))


def test_what_is_new_or_changed_is_predicted(untrained: Path, photos: Path, bucket: str) -> None:
    store = fsspec.filesystem("memory")
    predict_files(untrained, [bucket], OUT)
    assert (again := predict_files(untrained, [bucket], OUT)).present == 4
    assert again.predicted == 0
    store.pipe_file("/bucket/photos/a.jpg", (photos / "b c.jpg").read_bytes())  # a later time
    store.rm_file("/bucket/maps/deep/a_overlay.jpg")
    assert predict_files(untrained, [bucket], OUT).predicted == 2
    assert predict_files(untrained, [bucket], OUT, options=PredictOptions(overwrite=True, overlay=False)).predicted == 4
    assert not any("overlay" in name for name in remote_content(OUT))


def test_an_interrupted_call_goes_on(untrained: Path, bucket: str, monkeypatch: Any) -> None:
    original = Segmenter.predict

    def interrupted(self: Segmenter, image: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, image)

    monkeypatch.setattr(Segmenter, "predict", interrupted)
    with pytest.raises(Stopped):
        predict_files(untrained, [bucket], OUT)
    monkeypatch.setattr(Segmenter, "predict", original)
    assert (again := predict_files(untrained, [bucket], OUT)).present == 1
    assert again.predicted == 3


def test_an_interruption_waits_for_downloads(untrained: Path, photos: Path, bucket: str, monkeypatch: Any) -> None:
    store, content = fsspec.filesystem("memory"), (photos / "a.jpg").read_bytes()
    for number in range(60):
        store.pipe_file(f"/bucket/photos/many/{number}.jpg", content)
    original, predict = RemoteRoot.download, Segmenter.predict

    def slow(self: RemoteRoot, name: str, target: Path) -> None:
        time.sleep(0.02)
        original(self, name, target)

    def interrupted(self: Segmenter, image: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return predict(self, image)

    monkeypatch.setattr(RemoteRoot, "download", slow)
    monkeypatch.setattr(Segmenter, "predict", interrupted)
    with pytest.raises(Stopped):
        predict_files(untrained, [bucket], OUT)


def test_a_full_disk_for_copies_ends_the_call(untrained: Path, bucket: str, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RemoteRoot, "download", full)
    with pytest.raises(PicieError, match="the disk is full; 0 of 5 images are done"):
        predict_files(untrained, [bucket], OUT)


def test_a_record_that_cannot_be_uploaded_is_an_error(untrained: Path, bucket: str, monkeypatch: Any) -> None:
    original, records = RemoteRoot.upload, 0

    def upload(self: RemoteRoot, source: Path, name: str) -> None:
        nonlocal records
        records += name == "predictions.json"
        if records > 1:
            raise PermissionError(13, "no permission")
        original(self, source, name)

    monkeypatch.setattr(RemoteRoot, "upload", upload)
    with pytest.raises(PermissionError, match="no permission"):
        predict_files(untrained, [f"{bucket}/a.jpg"], OUT)


def test_shards_are_joined_on_the_store(untrained: Path, bucket: str) -> None:
    predict_files(untrained, [bucket], "memory://bucket/one")
    for index in (1, 2):
        predict_files(untrained, [bucket], OUT, options=PredictOptions(shard=Shard(index, 2)))
    assert gather(OUT).predicted == 4
    assert remote_content(OUT) == remote_content("memory://bucket/one")


def test_a_failed_upload_is_skipped_and_repeated(untrained: Path, bucket: str, monkeypatch: Any) -> None:
    original = RemoteRoot.upload

    def refuse(self: RemoteRoot, source: Path, name: str) -> None:
        if name == "a.png":
            raise PermissionError(13, "no permission")
        original(self, source, name)

    monkeypatch.setattr(RemoteRoot, "upload", refuse)
    skipped = predict_files(untrained, [bucket], OUT).skipped
    assert skipped[f"{bucket}/a.jpg"] == f"{bucket}/a.jpg: its predictions cannot be written to {OUT} (no permission)"
    monkeypatch.undo()
    assert predict_files(untrained, [bucket], OUT).predicted == 1


def test_downloads_take_limited_space(bucket: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(remote_files, "_SPACE", 1000)
    store = fsspec.filesystem("memory")
    for number in range(30):
        store.pipe_file(f"/bucket/many/{number:02}.jpg", b"x" * 300)
    root, largest = RemoteRoot("memory://bucket/many"), 0
    for file in fetched([root.file(f"{number:02}.jpg") for number in range(30)], tmp_path / "copies"):
        largest = max(largest, sum(path.stat().st_size for path in (tmp_path / "copies").rglob("*.jpg")))
        file.release()
    assert 300 < largest <= 1000
    assert not list((tmp_path / "copies").rglob("*.jpg"))


def test_a_file_that_is_gone_is_an_error_of_its_own(bucket: str, tmp_path: Path) -> None:
    gone = RemoteFile("memory://bucket/gone.jpg", (1, 1))
    (file,) = fetched([gone], tmp_path)
    assert isinstance(file, Fetched)
    assert file.error.startswith("memory://bucket/gone.jpg: cannot be downloaded (")


def test_bad_urls_give_one_line(untrained: Path, bucket: str, refused: Refused, monkeypatch: Any) -> None:
    def message(path: str, out: str = OUT) -> str:
        return refused("predict", untrained, path, "--out", out)

    assert "memory://bucket/none: has no image file; give another folder" in message("memory://bucket/none")
    assert "memory://bucket/none.jpg: no such file" in message("memory://bucket/none.jpg")
    assert "nonsense://x: cannot be opened (" in message("nonsense://x")
    assert "a web server cannot be written to" in message(bucket, "https://x.org/maps")
    assert f"--out {bucket}: holds other files" in message(bucket, bucket)
    assert "--format: needs the predictions on this machine" in refused(
        "predict", untrained, bucket, "--out", OUT, "--format", "coco"
    )
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "s3://bucket/photos: needs the package of this store (Install s3fs to access S3); pip install it" in message(
        "s3://bucket/photos"
    )
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert "s3://bucket/photos: needs fsspec; pip install 'picie[remote]'" in message("s3://bucket/photos")


def test_photos_on_a_web_server(untrained: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")  # of the extra `remote`
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=photos)
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            assert predict_files(untrained, [f"{url}/"], tmp_path / "out").predicted == 4
            assert predict_files(untrained, [f"{url}/a.jpg"], tmp_path / "file") == Summary(1)
            assert predict_files(untrained, [f"{url}/"], tmp_path / "out").present == 4
            with pytest.raises(InputError, match="no such file"):
                predict_files(untrained, [f"{url}/none.jpg"], tmp_path / "out")
        finally:
            server.shutdown()
    predict_files(untrained, [photos], tmp_path / "local")
    maps = [path.relative_to(tmp_path / "local") for path in (tmp_path / "local").rglob("*.png")]
    for name in maps:
        assert (tmp_path / "out" / str(name).replace(" ", "%20")).read_bytes() == (tmp_path / "local" / name).read_bytes()
