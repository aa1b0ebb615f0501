"""The responses of the page's routes, and the requests that they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import signal
import socket
import struct
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.testclient import TestClient
from tests.conftest import predicted_clusters
from tests.forked import forked, picie

from picie import Segmenter
from picie.app import exports as exports_module
from picie.app.checks import read_body
from picie.app.exports import Exports
from picie.app.gallery import Gallery, open_gallery
from picie.app.guard import Guard, is_loopback
from picie.app.opened import mask, shown_values
from picie.app.server import Limits, create
from picie.app.studio import Studio
from picie.data.folder import Folder
from picie.data.images import decode_image, open_image
from picie.data.scaling import Reading
from picie.errors import UnreadableImageError
from picie.inference.neighbors import Query, feature_at, neighbors
from picie.inference.predict import predict_files
from picie.naming import changes as naming
from picie.naming.changes import Changes
from picie.naming.overview import segments_of
from picie.runtime import checkpoint
from picie.runtime.rng import permutation

Opens = Callable[[Path], dict[str, Any]]
IMAGE = {"Content-Type": "image/png"}


@pytest.fixture
def photo(labelled_folder: Path) -> Path:
    return labelled_folder / "images" / "val" / "100.jpg"


def png(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


# ---- segmenting


def test_the_mask_is_what_predict_writes(client: TestClient, upload: Opens, photo: Path, own_run: Path, cli: Any) -> None:
    opened = upload(photo)
    mask = Image.open(io.BytesIO(client.get(f"/api/pictures/{opened['key']}/mask.png").content))
    assert cli("predict", own_run, photo, "--out", own_run.parent / "out", "--device", "cpu")[0] == 0
    written = Image.open(own_run.parent / "out" / "100.png")
    assert mask.mode == written.mode == "P"
    assert mask.getpalette() == written.getpalette()
    np.testing.assert_array_equal(np.asarray(mask), np.asarray(written))
    counts = np.bincount(np.asarray(written).ravel(), minlength=3) / (64 * 48)
    np.testing.assert_allclose(opened["shares"], counts)
    assert (counts > 0).sum() > 1


def test_what_is_shown_of_a_small_picture_is_all_of_it(client: TestClient, upload: Opens, photo: Path, own_run: Path) -> None:
    opened = upload(photo)
    values = np.frombuffer(client.get(f"/api/pictures/{opened['key']}/values").content, "<u2").reshape(48, 64)
    np.testing.assert_array_equal(values, Segmenter.load(own_run, "cpu").predict(photo))
    shown = Image.open(io.BytesIO(client.get(f"/api/pictures/{opened['key']}/picture.png").content))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(open_image(photo)))


def test_a_large_picture_is_shown_smaller_and_saved_whole(studio: Studio, photo: Path) -> None:
    picture = open_image(photo).resize((4096, 96))
    _, opened = studio.open(picture)
    assert opened.shown_size == (2048, 48)
    full = np.asarray(Image.open(io.BytesIO(mask(studio.segmenter, opened))))
    assert full.shape == (96, 4096)
    values = np.frombuffer(zlib.decompress(shown_values(studio.segmenter, opened)), "<u2").reshape(48, 2048)
    np.testing.assert_array_equal(values, full[1::2, 1::2])


def test_a_picture_is_seen_upright(still: TestClient, photo: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    open_image(photo).save(tmp_path / "turned.jpg", exif=exif)
    opened = still.post("/api/pictures", content=(tmp_path / "turned.jpg").read_bytes(), headers=IMAGE).json()
    assert (opened["width"], opened["height"]) == (48, 64)


def test_clusters_without_a_class_have_a_name_of_their_own(own_run: Path, images: Path, photo: Path) -> None:
    state = checkpoint.load(own_run)
    state["matching"] = {"names": ["thing"], "colors": ["#ff0000"], "ignore": 255, "assignment": [-1, 0, -1]}
    checkpoint.save(own_run / "checkpoint.pt", state)
    studio = Studio(own_run, images, "cpu")
    assert [row["name"] for row in studio.segments()] == ["thing", "cluster 0", "cluster 2"]
    opened = studio.open(open_image(photo))[1]
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(mask(studio.segmenter, opened)))), studio.segmenter.predict(photo)
    )


def test_more_than_256_values_are_saved_with_16_bits(studio: Studio, photo: Path) -> None:
    segmenter, generator = studio.segmenter, torch.Generator().manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(300, 8, generator=generator), dim=1)
    studio.segmenter = Segmenter(segmenter.method, (weight, torch.zeros(300)), segmenter.config, segmenter.engine)
    _, opened = studio.open(open_image(photo))
    saved = Image.open(io.BytesIO(mask(studio.segmenter, opened)))
    assert saved.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(saved), studio.segmenter.predict(photo))


def test_old_pictures_make_room_and_say_so(client: TestClient, upload: Opens, photo: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("picie.app.opened._MEMORY", 1)
    first, second = upload(photo), upload(photo)
    gone = client.get(f"/api/pictures/{first['key']}/mask.png")
    assert (gone.status_code, gone.json()["error"]) == (410, "the picture is no longer in memory; open it again")
    assert client.get(f"/api/pictures/{second['key']}/mask.png").status_code == 200


def test_few_pictures_are_in_work_at_once(still: TestClient, monkeypatch: Any) -> None:
    inside, most, lock, third = 0, 0, threading.Lock(), threading.Barrier(3)

    def decode(*_: object) -> Image.Image:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with contextlib.suppress(threading.BrokenBarrierError):
            third.wait(0.5)  # a third one would start now
        with lock:
            inside -= 1
        return Image.new("RGB", (40, 30))

    monkeypatch.setattr("picie.app.server.decode_image", decode)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: still.post("/api/pictures", content=b"x", headers=IMAGE), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert most == 2


# ---- what is refused


def test_pixels_are_counted_before_they_are_decoded(still: TestClient, monkeypatch: Any) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    answer = still.post("/api/pictures", content=png(1001, 1000), headers=IMAGE)
    assert answer.status_code == 400
    assert "it has 1001 x 1000 pixels; the limit is 1 megapixels" in answer.json()["error"]
    bomb = still.post("/api/pictures", content=png(60_000, 60_000), headers=IMAGE)
    assert bomb.status_code == 400
    assert "it has 60000 x 60000 pixels" in bomb.json()["error"]


@pytest.mark.parametrize("content", [b"", b"no image", png(40, 40), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_told_in_one_line(still: TestClient, content: bytes) -> None:
    answer = still.post("/api/pictures", content=content, headers=IMAGE)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("this cannot be read as an image (")
    assert "\n" not in answer.json()["error"]


def test_formats_that_run_other_programs_are_not_opened() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "EPS")
    with pytest.raises(UnreadableImageError, match="no known image format"):
        decode_image(file.getvalue(), Reading(max_pixels=100))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_the_usual_formats_are_opened(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 40, 90)).save(file, kind)
    picture = decode_image(file.getvalue(), Reading(max_pixels=1200))
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    np.testing.assert_allclose(picture.getpixel((20, 15)), (200, 40, 90), atol=3)


def test_a_large_file_is_refused_by_its_announced_length(still: TestClient) -> None:
    answer = still.post("/api/pictures", content=b"x" * 1_000_001, headers=IMAGE)
    assert (answer.status_code, answer.json()["error"]) == (413, "the file is too large; the maximum is 1 MB")


def test_a_large_file_without_a_length_is_refused_while_it_comes() -> None:
    sent = 0

    async def receive() -> dict[str, Any]:  # an endless body
        nonlocal sent
        sent += 1
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(HTTPException, match="too large"):
        asyncio.run(read_body(request, 1_000_000, "1 MB"))
    assert sent == 11


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_plain_form_of_another_site_can_send_is_no_upload(still: TestClient, photo: Path, kind: str) -> None:
    answer = still.post("/api/pictures", content=photo.read_bytes(), headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert still.post("/api/changes", content=b"{}", headers={"Content-Type": kind}).status_code == 415
    assert still.post("/api/export", content=b"{}", headers={"Content-Type": kind}).status_code == 415


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[", "192.168.0.9"])
def test_another_name_of_this_machine_is_refused(still: TestClient, host: str) -> None:
    answer = still.get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "picie app printed" in answer.json()["error"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:1", "LOCALHOST", "[::1]:7860"])
def test_the_names_of_a_local_page_are_its_own(still: TestClient, host: str) -> None:
    assert still.get("/", headers={"Host": host}).status_code == 200


def test_a_public_page_has_its_addresses_and_its_own_name_but_no_other() -> None:
    guard = Guard(lambda *_: None, "0.0.0.0")  # type: ignore[arg-type, return-value]
    assert all(guard._is_own(name) for name in ("192.168.0.9", "localhost", socket.gethostname().lower()))
    assert not guard._is_own("evil.example")
    assert not is_loopback("0.0.0.0")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_may_ask_for_nothing(still: TestClient, photo: Path, headers: dict[str, str]) -> None:
    assert still.post("/api/pictures", content=photo.read_bytes(), headers=IMAGE | headers).status_code == 403
    assert still.get("/api/gallery/0/thumbnail.jpg", headers=headers).status_code == 403


def test_the_page_itself_may(still: TestClient, photo: Path) -> None:
    own = {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
    assert still.post("/api/pictures", content=photo.read_bytes(), headers=IMAGE | own).status_code == 200
    assert still.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link on another site


def test_every_answer_forbids_scripts_from_elsewhere(still: TestClient) -> None:
    for path in ("/", "/api/state", "/static/page.js", "/nowhere"):
        headers = still.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/pictures/none/mask.png", 410),
        ("/api/gallery/99/thumbnail.jpg", 400),
        ("/api/gallery/0/spot.jpg?x=64&y=0", 400),
        ("/api/gallery/0/spot.jpg?x=-1&y=0", 400),
        ("/api/gallery/0/spot.jpg", 400),
        ("/static/../server.py", 404),
        ("/static/%2e%2e/server.py", 404),
        ("/nowhere", 404),
    ],
)
def test_what_is_not_there_is_told_as_json(still: TestClient, path: str, status: int) -> None:
    answer = still.get(path)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_fault_of_picie_shows_no_trace(studio: Studio, monkeypatch: Any) -> None:
    monkeypatch.setattr(Studio, "segments", lambda _: 1 / 0)
    with TestClient(
        create(studio, Limits(), "127.0.0.1"), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        answer = client.get("/api/state")
    error = "picie failed (ZeroDivisionError); see its terminal for the reason"
    assert (answer.status_code, answer.json()) == (500, {"error": error})


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (OSError(28, "No space left on device", "run/checkpoint.pt"), 500, "run/checkpoint.pt: cannot be read or written (No "),
        (OSError(5, "Input/output error"), 500, "a file of picie: cannot be read or written (Input/output error)"),
        (MemoryError(), 503, "there is not enough memory for this picture; give a smaller one"),
    ],
)
def test_faults_of_disk_and_memory_are_one_line(
    studio: Studio, monkeypatch: Any, fault: Exception, status: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Studio, "segments", fail)
    with TestClient(create(studio, Limits(), "127.0.0.1"), base_url="http://127.0.0.1") as client:
        answer = client.get("/api/state")
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_a_damaged_run_is_one_line_and_the_page_goes_on(client: TestClient, studio: Studio, damage: bytes | None) -> None:
    checkpoint_file = studio.run / "checkpoint.pt"
    if damage is None:
        checkpoint_file.unlink()
    else:
        checkpoint_file.write_bytes(damage)
    change = {"was": list(studio.segmenter.names), "names": [{"segment": "0", "name": "sky"}]}
    answer = client.post("/api/changes", json=change)
    assert answer.status_code == 400
    assert "checkpoint.pt" in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert client.get("/api/state").status_code == 200


def test_a_gallery_picture_that_is_damaged_later_is_one_line(own_run: Path, images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "pictures"))
    with TestClient(create(Studio(own_run, folder, "cpu"), Limits(), "127.0.0.1"), base_url="http://127.0.0.1") as client:
        (folder / "000.jpg").write_bytes(b"damaged")
        (folder / "001.jpg").unlink()
        for index, reason in enumerate(("cannot be read as an image", "no such file")):
            for answer in (
                client.get(f"/api/gallery/{index}/thumbnail.jpg"),
                client.get(f"/api/gallery/{index}/spot.jpg?x=1&y=1"),
                client.post(f"/api/gallery/{index}"),
            ):
                assert answer.status_code == 400
                assert f"00{index}.jpg: {reason}" in answer.json()["error"]


# ---- neighbours


def test_neighbours_are_those_of_picie_neighbors(
    client: TestClient, upload: Opens, studio: Studio, photo: Path, images: Path, own_run: Path
) -> None:
    opened = upload(photo)
    assert studio.gallery is not None
    studio.gallery._thread.join()
    answer = client.get(f"/api/pictures/{opened['key']}/query?x=30&y=20").json()
    labels = predicted_clusters(Segmenter.load(own_run, "cpu"), open_image(photo))
    assert answer["cluster"] == labels[20, 30]
    state = checkpoint.load(own_run)
    center = checkpoint.centroids_in_use(state)[labels[20, 30]]
    assert not torch.allclose(center, state["classifier"]["weight"][labels[20, 30]])
    cosine = torch.cosine_similarity(feature_at(studio.segmenter, open_image(photo), 30, 20), center, dim=0)
    assert answer["similarity"] == pytest.approx(float(cosine), abs=1e-5)
    expected = neighbors(own_run, Query(photo, 30, 20, images, k=8), device="cpu")
    found = answer["neighbors"]
    np.testing.assert_allclose([n["similarity"] for n in found], [n.similarity for n in expected], atol=2e-3)  # 16 bits
    assert {n["path"] for n in found} == {Path(n.path).name for n in expected}
    assert client.get(f"/api/gallery/{found[0]['index']}/spot.jpg?x={found[0]['x']}&y={found[0]['y']}").status_code == 200
    assert client.get(f"/api/pictures/{opened['key']}/query?x=64&y=0").status_code == 400


def test_a_picture_of_the_gallery_is_no_neighbour_of_itself(client: TestClient, studio: Studio) -> None:
    rows = client.get("/api/gallery?start=2").json()
    assert rows == [{"index": index, "name": f"{index:03d}.jpg"} for index in (2, 3, 4, 5)]
    opened = client.post("/api/gallery/2").json()
    assert studio.gallery is not None
    studio.gallery._thread.join()
    found = client.get(f"/api/pictures/{opened['key']}/query?x=1&y=1").json()["neighbors"]
    assert sorted(n["path"] for n in found) == ["000.jpg", "001.jpg", "003.jpg", "004.jpg", "005.jpg"]


def test_pictures_of_a_folder_are_read_as_those_of_the_run(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "deep.png")
    monkeypatch.setattr(studio.segmenter, "reading", Reading({"uint16": (0.0, 65535.0)}))
    gallery = open_gallery(studio.segmenter, studio._features, tmp_path)
    assert gallery is not None
    assert np.asarray(gallery.image(0)).max() == 16  # 255 by the picture's own values


def test_features_stay_within_their_memory(studio: Studio, images: Path) -> None:
    each = studio._features(open_image(images / "000.jpg")).numel() * 2
    gallery = Gallery(Folder(images), "", studio._features, memory=4 * each + 1)
    gallery.start()
    gallery._thread.join()
    assert gallery.progress() == {"seen": 4, "finished": True, "full": True, "failed": False, "unreadable": 0}
    order = permutation(6, 0, "gallery").tolist()
    assert [path for path, *_ in gallery.features(torch.device("cpu"))] == [str(index) for index in order[:4]]


def test_features_that_fail_are_told_and_end_the_waiting(studio: Studio, images: Path, caplog: Any) -> None:
    order = permutation(6, 0, "gallery").tolist()

    def features(picture: Image.Image) -> torch.Tensor:
        if picture.tobytes() == open_image(images / f"{order[2]:03d}.jpg").tobytes():
            raise RuntimeError("out of memory:\n2 GB")
        return studio._features(picture)

    gallery = Gallery(Folder(images), "", features)
    gallery.start()
    gallery._thread.join()
    assert gallery.progress() == {"seen": 2, "finished": True, "full": False, "failed": True, "unreadable": 0}
    assert "features of 2 pictures only, the next one fails: RuntimeError (out of memory: 2 GB)" in caplog.text
    assert [path for path, *_ in gallery.features(torch.device("cpu"))] == [str(index) for index in order[:2]]


def test_a_run_whose_pictures_are_gone_has_a_page_without_neighbours(own_run: Path, photo: Path) -> None:
    state = checkpoint.load(own_run)
    state["config"]["data"]["root"] = "/nowhere/at/all"
    checkpoint.save(own_run / "checkpoint.pt", state)
    studio = Studio(own_run, None, "cpu")
    assert studio.gallery is None
    assert studio.query(studio.open(open_image(photo))[1], 0, 0)["neighbors"] == []


# ---- names


def put(client: TestClient, value: int, was: str, name: str, color: str = "#102030") -> Any:
    """Ask for a name for the segment `value`, which the page shows as `was`."""
    names = [row["name"] for row in client.get("/api/state").json()["segments"]]
    names[value] = was
    return client.post("/api/changes", json={"was": names, "names": [{"segment": was, "name": name, "color": color}]})


def test_a_name_is_stored_in_the_run_and_predict_uses_it(
    client: TestClient, upload: Opens, photo: Path, own_run: Path, cli: Any
) -> None:
    opened = upload(photo)
    was = segments_of(own_run).names[1]
    answer = put(client, 1, was, "  my <b>road</b> ")
    assert answer.status_code == 200, answer.text
    row = {"name": "my <b>road</b>", "color": "#102030", "clusters": segments_of(own_run).clusters(1)}
    assert answer.json()["segments"][1] == row
    assert answer.json()["undo"] == "the name   my <b>road</b> "
    assert client.get("/api/state").json()["segments"] == answer.json()["segments"]
    assert cli("predict", own_run, photo, "--out", own_run.parent / "out", "--device", "cpu")[0] == 0
    written = Image.open(own_run.parent / "out" / "100.png")
    assert written.getpalette()[3:6] == [0x10, 0x20, 0x30]
    mask = Image.open(io.BytesIO(client.get(f"/api/pictures/{opened['key']}/mask.png").content))
    assert mask.getpalette() == written.getpalette()


@pytest.mark.parametrize(
    ("name", "color", "told"),
    [
        (" ", "#102030", "is not a valid name"),
        ("7", "#102030", "is not a valid name"),
        ("a\nb", "#102030", "is not a valid name"),
        ("a" * 201, "#102030", "the name has 201 characters; give one of at most 200"),
        ("sky", "red", "is not a colour"),
        ("TAKEN", "#102030", "is the name of 2 segments; merge them"),
    ],
)
def test_a_name_that_cannot_be_changes_nothing(client: TestClient, own_run: Path, name: str, color: str, told: str) -> None:
    before = segments_of(own_run)
    answer = put(client, 1, before.names[1], before.names[0] if name == "TAKEN" else name, color)
    assert answer.status_code == 400
    assert told in answer.json()["error"]
    assert segments_of(own_run) == before


def test_names_that_changed_elsewhere_are_shown_first(client: TestClient, own_run: Path) -> None:
    was = segments_of(own_run).names
    naming.change(own_run, Changes(merges=[([0, 1], "both", "")]), device="cpu")
    answer = put(client, 1, was[1], "mine")
    assert answer.status_code == 409
    assert [row["name"] for row in client.get("/api/state").json()["segments"]] == list(segments_of(own_run).names)
    assert "mine" not in segments_of(own_run).names


def test_new_clusters_in_the_run_are_shown_first(client: TestClient, upload: Opens, photo: Path, own_run: Path) -> None:
    opened = upload(photo)
    was = segments_of(own_run).names[1]
    naming.change(own_run, Changes(k=5), device="cpu")
    assert put(client, 1, was, "mine").status_code == 409
    names = [row["name"] for row in client.get("/api/state").json()["segments"]]
    assert names == [f"cluster {i}" for i in range(5)]
    mask = Image.open(io.BytesIO(client.get(f"/api/pictures/{opened['key']}/mask.png").content))
    np.testing.assert_array_equal(np.asarray(mask), Segmenter.load(own_run, "cpu").predict(photo))


def test_a_run_that_was_trained_further_asks_for_a_new_start(client: TestClient, own_run: Path) -> None:
    state = checkpoint.load(own_run)
    next(iter(state["method"].values())).add_(1)
    checkpoint.save(own_run / "checkpoint.pt", state)
    answer = put(client, 1, segments_of(own_run).names[1], "mine")
    assert answer.status_code == 409
    assert "start it again" in answer.json()["error"]


def test_changes_are_those_of_picie_name(client: TestClient, studio: Studio, own_run: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(own_run, tmp_path / "twin"))
    steps: tuple[tuple[dict[str, Any], Changes], ...] = (
        ({"splits": [{"segment": "0", "parts": 2}]}, Changes(splits={"0": 2})),
        (
            {"merges": [{"segments": ["1", "3"], "name": "both", "color": "#112233"}]},
            Changes(merges=[(["1", "3"], "both", "#112233")]),
        ),
        ({"k": 4}, Changes(k=4)),
    )
    tables = []
    for request, changes in steps:
        tables.append(segments_of(own_run))
        answer = client.post("/api/changes", json={"was": list(tables[-1].names), **request})
        assert answer.status_code == 200, answer.text
        naming.change(twin, changes, device="cpu")
        assert segments_of(own_run) == segments_of(twin)
        weights = [checkpoint.classifier_in_use(checkpoint.load(run))[0] for run in (own_run, twin)]
        assert torch.equal(*weights)
    for table in reversed(tables):
        answer = client.post("/api/changes", json={"was": list(segments_of(own_run).names), "undo": True})
        assert answer.status_code == 200, answer.text
        assert segments_of(own_run) == table
    assert answer.json()["undo"] is None
    assert client.post("/api/changes", json={"was": list(tables[0].names), "undo": True}).status_code == 400


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"was": "a"}', b'"text"', b"\xff", b"[" * 30_000, b'{"was": [], "run": 1}'])
def test_a_change_that_is_none_is_refused(still: TestClient, content: bytes) -> None:
    answer = still.post("/api/changes", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]


# ---- contact sheets and the strip


def test_sheets_show_typical_places_of_each_segment(client: TestClient, studio: Studio) -> None:
    assert studio.gallery is not None
    studio.gallery.start()
    studio.gallery._thread.join()
    sheets = client.get("/api/sheets").json()
    assert sheets["pictures"] == 6
    assert sum(row["share"] for row in sheets["segments"]) == pytest.approx(1)
    for value, row in enumerate(sheets["segments"]):
        with_it = {one["index"]: one["share"] for one in client.get(f"/api/gallery?segment={value}").json()}
        assert list(with_it.values()) == sorted(with_it.values(), reverse=True)
        assert len({crop["index"] for crop in row["crops"]}) == len(row["crops"]) <= 4
        for crop in row["crops"]:
            assert crop["name"] == f"{crop['index']:03d}.jpg"
            assert crop["src"].startswith("data:image/jpeg;base64,")
    assert client.get("/api/gallery?segment=99").status_code == 400


def test_broken_files_are_left_out_of_the_strip(own_run: Path, images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "pictures"))
    (folder / "001.jpg").write_bytes(b"broken")
    studio = Studio(own_run, folder, "cpu")
    assert studio.gallery is not None
    studio.gallery.start()
    studio.gallery._thread.join()
    with TestClient(create(studio, Limits(), "127.0.0.1"), base_url="http://127.0.0.1") as client:
        rows = client.get("/api/gallery?start=0").json()
        assert [row["index"] for row in rows] == [0, 2, 3, 4, 5]
        assert client.get("/api/state").json()["gallery"]["unreadable"] == 1


def test_confidence_is_the_margin_of_the_probabilities(client: TestClient, upload: Opens, studio: Studio, photo: Path) -> None:
    opened = upload(photo)
    answer = np.frombuffer(client.get(f"/api/pictures/{opened['key']}/confidence").content, np.uint8).reshape(48, 64)
    two = np.sort(studio.segmenter.probabilities(photo), axis=0)[-2:]
    np.testing.assert_allclose(answer / 255, two[1] - two[0], atol=0.003)


# ---- export


def exported(client: TestClient, kind: str) -> tuple[str, bytes]:
    """The name and content of an export."""
    assert client.post("/api/export", json={"format": kind}).status_code == 202
    end = time.monotonic() + 60
    while (state := client.get("/api/export").json())["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert state["state"] == "done", state
    answer = client.get("/api/export/file")
    assert answer.headers["Content-Disposition"].endswith(f'"{state["file"]}"')
    return state["file"], answer.content


def test_all_pictures_are_exported_in_a_format(client: TestClient, studio: Studio, images: Path) -> None:
    assert client.get("/api/export/file").status_code == 404
    name, content = exported(client, "masks")
    assert name == "masks.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        masks = {file for file in archive.namelist() if file.endswith(".png") and file != "legend.png"}
        assert masks == {f"{path.stem}.png" for path in images.iterdir()}
        mask = np.asarray(Image.open(io.BytesIO(archive.read("003.png"))))
    np.testing.assert_array_equal(mask, studio.segmenter.predict(images / "003.jpg"))
    name, content = exported(client, "csv")
    assert name == "csv.zip" or b"003" in content
    assert client.get("/api/state").json()["formats"][:1] == ["masks"]
    assert "no such format" in client.post("/api/export", json={"format": "doc"}).json()["error"]


def test_pictures_are_exported_again_after_new_clusters(client: TestClient, own_run: Path, images: Path) -> None:
    exported(client, "masks")
    state = checkpoint.load(own_run)
    state["classifier"]["weight"] = state["classifier"]["weight"].flip(0)
    checkpoint.save(own_run / "checkpoint.pt", state)
    _, content = exported(client, "masks")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        mask = np.asarray(Image.open(io.BytesIO(archive.read("003.png"))))
    np.testing.assert_array_equal(mask, Segmenter.load(own_run).predict(images / "003.jpg"))


def test_a_running_export_can_be_cancelled_and_goes_on_later(
    client: TestClient, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled_at_once(*args: Any, **options: Any) -> Any:
        assert client.delete("/api/export").status_code == 200
        return predict_files(*args, **options)

    monkeypatch.setattr(exports_module, "predict_files", cancelled_at_once)
    assert client.post("/api/export", json={"format": "masks"}).status_code == 202
    end = time.monotonic() + 60
    while (state := client.get("/api/export").json())["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (state["state"], state["done"], state["total"]) == ("cancelled", 1, len(list(images.iterdir())))
    assert client.get("/api/export/file").status_code == 404
    monkeypatch.undo()
    assert exported(client, "masks")[0] == "masks.zip"


def test_exported_masks_keep_their_folders_and_an_archive_in_use(own_run: Path, images: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / "photos" / day / "IMG_1.jpg" for day in ("mon", "tue/late")]
    for picture in pictures:
        picture.parent.mkdir(parents=True)
        shutil.copy(images / "003.jpg", picture)
    exports = Exports(own_run, pictures, "cpu")
    with exports._made("masks").open("rb") as first:
        before = first.read()
        (tmp_path / "photos/mon/IMG_1.jpg").write_bytes((images / "004.jpg").read_bytes())
        archive = exports._made("masks")
        first.seek(0)
        assert first.read() == before != archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        masks = {name for name in opened.namelist() if name.endswith(".png")}
    assert masks == {"legend.png", "mon/IMG_1.png", "tue/late/IMG_1.png"}


# ---- clicks


def test_clicks_teach_classes_and_undo_takes_them_back(client: TestClient, own_run: Path, studio: Studio, images: Path) -> None:
    assert studio.gallery is not None
    before = segments_of(own_run)
    opened = client.post("/api/gallery/0").json()
    studio.gallery._thread.join()
    label = np.asarray(Image.open(images.parents[1] / "labels" / "train" / "000.png"))
    pixels = {
        name: [tuple(map(int, p)) for p in np.argwhere(label == value)[::150]] for value, name in enumerate(("red", "green"))
    }
    teach = {"was": list(before.names)}
    assert "at least two classes" in client.post("/api/teach", json=teach).json()["error"]
    for name, places in pixels.items():
        for y, x in places:
            answer = client.post(f"/api/pictures/{opened['key']}/clicks", json={"x": x, "y": y, "name": name})
            assert answer.status_code == 200, answer.text
    assert answer.json() == {name: len(places) for name, places in pixels.items()}
    assert client.delete("/api/clicks/last").json()["green"] == len(pixels["green"]) - 1
    assert client.post(f"/api/pictures/{opened['key']}/clicks", json={"x": 99, "y": 0, "name": "red"}).status_code == 400
    assert client.post(f"/api/pictures/{opened['key']}/clicks", json={"x": 0, "y": 0, "name": "7"}).status_code == 400
    (file,) = client.get("/api/clicks.json").json()
    assert file == str((images / "000.jpg").absolute())
    answer = client.post("/api/teach", json=teach)
    assert answer.status_code == 200, answer.text
    assert [row["name"] for row in answer.json()["segments"]] == ["red", "green"]
    mask = Image.open(io.BytesIO(client.get(f"/api/pictures/{opened['key']}/mask.png").content))
    np.testing.assert_array_equal(np.asarray(mask), Segmenter.load(own_run, "cpu").predict(images / "000.jpg"))
    answer = client.post("/api/changes", json={"was": ["red", "green"], "undo": True})
    assert answer.status_code == 200, answer.text
    assert segments_of(own_run) == before


# ---- curl


def form(name: str, content: bytes, filename: str | None) -> dict[str, Any]:
    """A request with a form of one part."""
    of_file = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: image/jpeg'
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'
    return {
        "content": head.encode() + content + b"\r\n--XX--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=XX"},
    }


def test_a_form_as_curl_sends_it_is_segmented(still: TestClient, photo: Path) -> None:
    plain = still.post("/api/pictures", content=photo.read_bytes(), headers=IMAGE).json()
    sent = still.post("/api/pictures", **form("file", photo.read_bytes(), "photo.jpg")).json()
    assert sent["shares"] == plain["shares"]
    for request in (form("file", b"text", None), {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}):
        answer = still.post("/api/pictures", **request)
        assert answer.status_code == 400
        assert "curl -F file=@photo.jpg" in answer.json()["error"]
    for header, value, status in (
        ("Origin", "http://evil.example", 403),
        ("Origin", "http://127.0.0.1:7860", 415),
        ("Referer", "http://evil.example/", 415),
        ("Sec-Fetch-Site", "none", 415),
    ):
        of_browser = form("file", photo.read_bytes(), "photo.jpg")
        of_browser["headers"][header] = value
        assert still.post("/api/pictures", **of_browser).status_code == status


def test_a_form_keeps_every_byte_of_its_file(still: TestClient, monkeypatch: Any) -> None:
    seen: list[bytes] = []

    def decode(data: bytes, *_: object) -> Image.Image:
        seen.append(data)
        return Image.new("RGB", (64, 48))

    monkeypatch.setattr("picie.app.server.decode_image", decode)
    random = np.random.default_rng(0)
    contents = [
        b"\r\n",
        b"a\r",
        b"\n",
        b"--X\r\n--",
        *(random.integers(0, 256, 3000, dtype=np.uint8).tobytes() for _ in range(20)),
    ]
    for content in contents:
        assert still.post("/api/pictures", **form("file", content, "photo.jpg")).status_code == 200
    assert seen == contents


# ---- the command


def test_it_says_where_it_is_and_ends_with_the_interrupt(own_run: Path, images: Path, tmp_path: Path) -> None:
    command = ["app", str(own_run), "--images", str(images), "--port", "0", "--device", "cpu"]
    with forked(tmp_path, picie, command) as process:
        process.wait_for_output()
        url = process.output().strip()
        assert url.startswith("http://127.0.0.1:")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=30) as page:
            assert b"<title>picie" in page.read()
        process.send(signal.SIGINT)
        status, _, errors = process.wait()
    assert (status, errors) == (130, "picie: stopped\n")


def test_a_port_that_is_taken_is_one_line(own_run: Path, refused: Any) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert "cannot listen there" in refused("app", own_run, "--port", port)
    assert "cannot listen there" in refused("app", own_run, "--port", 0, "--host", "no such host")
    assert "--host is empty; give a name" in refused("app", own_run, "--port", 0, "--host", "")


def test_what_is_missing_is_said(own_run: Path, refused: Any, monkeypatch: Any, tmp_path: Path) -> None:
    assert "no such run" in refused("app", tmp_path / "none", "--port", 0)
    assert "no such folder" in refused("app", own_run, "--port", 0, "--images", tmp_path / "none")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert refused("app", own_run).endswith("run: pip install 'picie[app]'")


def test_listening_for_others_is_warned_of(own_run: Path, images: Path, monkeypatch: Any, cli: Any) -> None:
    monkeypatch.setattr("picie.app.listening.Listening.run", lambda _: None)
    status, out, err = cli("app", own_run, "--images", images, "--port", 0, "--host", "0.0.0.0")
    assert status == 0
    assert out.startswith(f"http://{socket.gethostname()}:")
    assert err.count("picie: warning: --host 0.0.0.0: anyone who can reach this machine can use the page") == 1
    status, _, err = cli("app", own_run, "--images", images, "--port", 0)
    assert (status, err) == (0, "")


def test_the_page_and_all_its_parts_come_with_the_package(still: TestClient) -> None:
    from picie.app import server

    for file in server._STATIC.iterdir():
        assert still.get(f"/static/{file.name}").status_code == 200
    text = "".join(file.read_text("utf-8") for file in server._STATIC.iterdir())
    assert "innerHTML" not in text
    assert "https://" not in text  # nothing is fetched from elsewhere
