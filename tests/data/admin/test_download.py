"""`picie data download`, against a server of its own on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import ssl
import stat
import tarfile
import threading
import time
import urllib.error
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.tiny_datasets import CURATED

from picie.cli.data import TerminalReporter
from picie.data.admin import download as downloading
from picie.data.admin.sources import BY_HAND, DOWNLOADS, Download, Source
from picie.data.admin.unpacking import BadArchiveError, unpack
from picie.errors import DownloadError, InputError, Stopped
from picie.runtime import progress
from picie.runtime.interrupts import StopRequest
from picie.version import __version__

PICTURES = {f"train2017/{n}.jpg": random.Random(n).randbytes(100_000) for n in range(3)}
PLACES = ("images/train2017", "train2017")
LISTS = {f"COCO/CocoStuff164k/curated/{split}2017/list.txt": b"000000000001\n" for split in ("train", "val")}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED, **modes: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            info.external_attr = modes.get(name, 0) << 16
            archive.writestr(info, data)
    return content.getvalue()


def tarred(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in others:
            archive.addfile(info)
    return content.getvalue()


class Server:
    """A web server whose faults are switched on by its attributes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.version: str | None = '"one"'  # the ETag
        self.heeds_range = True
        self.heeds_if_range = True
        self.breaks: list[int] = []  # after how many bytes each coming request breaks off
        self.always_breaks: int | None = None
        self.stalls = False  # where it would break off
        self.statuses: list[int] = []  # of the coming requests
        self.misplaces = 0  # bytes before the asked place that a partial answer starts
        self.claims_more = 0  # bytes that Content-Length names too many
        self.half_way: Callable[[], object] | None = None  # called after half of what is sent
        self.sent = 0
        self.requests: list[dict[str, str]] = []
        self.released = threading.Event()

    def has_sent(self, n: int) -> bool:
        """Whether `n` bytes were sent; waits up to 5 s, as bytes are counted late."""
        deadline = time.monotonic() + 5
        while self.sent != n and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.sent == n

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append({"path": handler.path, **dict(handler.headers.items())})
        if self.statuses:
            return handler.send_error(self.statuses.pop(0))
        if handler.path.startswith("/moved/"):
            handler.send_response(302)
            handler.send_header("Location", handler.path.removeprefix("/moved"))
            return handler.end_headers()
        self._send(handler, self.files[handler.path.rpartition("/")[2]])
        return None

    def _send(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        partial = self.heeds_range and asked is not None and (not self.heeds_if_range or condition in (None, self.version))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if partial and asked is not None else 0
        start = max(0, start - self.misplaces)
        out_of_range = partial and start >= len(content)
        handler.send_response(416 if out_of_range else 206 if partial else 200)
        if self.version is not None:
            handler.send_header("ETag", self.version)
        if out_of_range:
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            return handler.end_headers()
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start + self.claims_more))
        handler.end_headers()
        limit = self.breaks.pop(0) if self.breaks else self.always_breaks
        body = content[start:] if limit is None else content[start : start + limit]
        self._write(handler, body[: len(body) // 2])
        if self.half_way is not None:
            self.half_way()
        self._write(handler, body[len(body) // 2 :])
        if limit is not None and self.stalls:
            self.released.wait(5)
        return None

    def _write(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(body)
        handler.wfile.flush()
        self.sent += len(body)


@pytest.fixture
def server() -> Iterator[Server]:
    faults = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            faults.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        faults.files = {"train.zip": zipped(PICTURES), "lists.tar.gz": tarred(LISTS)}
        faults.address = f"http://127.0.0.1:{listening.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield faults
        faults.released.set()
        listening.shutdown()
        thread.join()


Get = Callable[..., Path]


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Get:
    """get(sha256=correct one, path="/"): fetch a dataset of one archive; returns its folder."""
    right = hashlib.sha256(server.files["train.zip"]).hexdigest()

    def call(sha256: str | None = right, path: str = "/", timeout: float = 5.0) -> Path:
        root = tmp_path / "data"
        url = f"{server.address}{path}train.zip"  # type: ignore[attr-defined]
        source = Source(url, {"train2017": PLACES}, ".jpg", {"train2017/*.jpg": 3}, 300_000, sha256)
        table = {"pictures": Download(("photos: be kind",), (source,))}
        downloading.download("pictures", root, TerminalReporter(), table, timeout=timeout, backoff=0)
        return root

    return call


def files_in(root: Path) -> dict[str, bytes]:
    """All files under `root` but the records."""
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".json")}


UNPACKED = {f"images/{name}": content for name, content in PICTURES.items()}


def part(root: Path) -> Path:
    return root / ".downloads/train.zip.part"


def test_terms_come_first_then_all_is_fetched_checked_and_unpacked(
    server: Server, get: Get, capsys: pytest.CaptureFixture[str]
) -> None:
    server.half_way = lambda: terms.append(capsys.readouterr().out)
    terms: list[str] = []
    root = get()
    assert files_in(root) == UNPACKED  # and the archive is gone
    assert "photos: be kind" in terms[0]
    assert "300.0 kB; its SHA-256 is verified" in terms[0]
    assert "\ndisk space: about 612.3 kB while downloading, 312.3 kB afterwards\n" in terms[0]
    assert "complete" in capsys.readouterr().out
    record = json.loads((root / ".downloads/train.zip.json").read_text("utf-8"))
    assert record["sha256"] == hashlib.sha256(server.files["train.zip"]).hexdigest()
    assert (record["version"], record["bytes"]) == ('"one"', len(server.files["train.zip"]))
    assert server.requests[0]["User-Agent"] == f"picie/{__version__}"


def test_a_second_call_does_nothing_and_says_so(server: Server, get: Get, capsys: pytest.CaptureFixture[str]) -> None:
    root = get()
    sent = server.sent
    capsys.readouterr()
    get()
    assert (server.sent, len(server.requests)) == (sent, 1)
    assert capsys.readouterr().out == f"{root}: all files of pictures are present; nothing to fetch\n"


def test_files_that_someone_else_put_there_are_recognised(server: Server, get: Get, tmp_path: Path) -> None:
    for name, content in UNPACKED.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    get()
    assert server.requests == []


def test_another_layout_that_the_dataset_reads_is_recognised_and_completed_in_its_place(
    server: Server, get: Get, tmp_path: Path
) -> None:
    (tmp_path / "data/train2017").mkdir(parents=True)
    for name, content in PICTURES.items():
        (tmp_path / "data" / name).write_bytes(content)
    get()
    assert server.requests == []
    (tmp_path / "data/train2017/1.jpg").unlink()
    assert files_in(get()) == PICTURES  # nothing under images/, which would hide train2017/


def test_coco_in_every_layout_that_is_read_needs_no_download(tmp_path: Path) -> None:
    few = {"train2017": 3, "val2017": 2}
    for images, labels in (("images", "annotations"), (".", "stuffthingmaps")):
        root = tmp_path / f"with {labels}"
        for folder, n in few.items():
            for kind, ending in ((images, "jpg"), (labels, "png")):
                (root / kind / folder).mkdir(parents=True)
                for i in range(n):
                    (root / kind / folder / f"{i:012d}.{ending}").touch()
            (root / "curated" / folder).mkdir(parents=True)
            (root / "curated" / folder / CURATED).touch()
        for source in DOWNLOADS["cocostuff27"].sources:
            holds = {pattern: few.get(pattern.partition("/")[0], n) for pattern, n in source.holds.items()}
            assert replace(source, holds=holds).n_missing(root) == 0
            assert replace(source, holds=holds).n_missing(tmp_path) == sum(holds.values())


def test_a_file_that_was_lost_is_brought_back_and_the_others_stay(get: Get) -> None:
    root = get()
    (root / "images/train2017/1.jpg").unlink()
    kept = (root / "images/train2017/0.jpg").stat()
    get()
    assert files_in(root) == UNPACKED
    assert (root / "images/train2017/0.jpg").stat().st_ino == kept.st_ino


def test_an_archive_fetched_by_hand_is_checked_and_used(server: Server, get: Get, tmp_path: Path) -> None:
    (tmp_path / "data/.downloads").mkdir(parents=True)
    (tmp_path / "data/.downloads/train.zip").write_bytes(server.files["train.zip"])
    assert files_in(get()) == UNPACKED
    assert server.requests == []


def test_an_interrupted_download_resumes(server: Server, get: Get, told: list[str]) -> None:
    server.breaks = [100_000, 50_000]
    assert files_in(get()) == UNPACKED
    assert server.has_sent(len(server.files["train.zip"]))
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert [r.get("If-Range") for r in server.requests] == [None, '"one"', '"one"']
    assert "train.zip: the connection ended early at 100.0 kB; trying again, up to 4 times" in told


def test_a_partial_response_with_another_start_is_not_appended(server: Server, get: Get) -> None:
    server.breaks, server.misplaces = [100_000], 10
    assert files_in(get(sha256=None)) == UNPACKED
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-", None]


def test_repeated_interruptions_raise_an_error_and_the_next_call_resumes(server: Server, get: Get, tmp_path: Path) -> None:
    server.breaks = [100_000]
    server.always_breaks = 0
    with pytest.raises(DownloadError, match=r"ended early, 5 times in a row; 100\.0 kB are kept: run the same command again"):
        get()
    root = tmp_path / "data"
    assert files_in(root) == {".downloads/train.zip.part": server.files["train.zip"][:100_000]}
    assert len(server.requests) == 5
    server.always_breaks = None
    get()
    assert files_in(root) == UNPACKED
    assert server.has_sent(len(server.files["train.zip"]))


def test_interruptions_with_progress_are_tolerated(server: Server, get: Get) -> None:
    server.always_breaks = 30_000
    assert files_in(get()) == UNPACKED
    assert server.has_sent(len(server.files["train.zip"]))


def test_a_server_without_ranges_starts_over(server: Server, get: Get, told: list[str]) -> None:
    server.heeds_range = False
    server.breaks = [100_000]
    assert files_in(get()) == UNPACKED
    assert server.has_sent(100_000 + len(server.files["train.zip"]))
    assert "train.zip: the download starts again (the file has changed, or the server cannot resume)" in told


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_partial_file_of_an_older_version_is_not_resumed(
    server: Server, get: Get, heeds_if_range: bool, told: list[str]
) -> None:
    changed = {name: content[::-1] for name, content in PICTURES.items()}
    server.always_breaks, server.breaks = 0, [100_000]
    with pytest.raises(DownloadError):
        get(sha256=None)
    server.always_breaks, server.heeds_if_range = None, heeds_if_range
    server.version, server.files["train.zip"] = '"two"', zipped(changed)
    assert files_in(get(sha256=None)) == {f"images/{name}": content for name, content in changed.items()}
    assert any("has changed" in line for line in told)


def test_a_partial_file_from_another_address_is_not_resumed(server: Server, get: Get) -> None:
    server.always_breaks, server.breaks = 0, [100_000]
    with pytest.raises(DownloadError):
        get()
    server.always_breaks = None
    assert files_in(get(path="/mirror/")) == UNPACKED
    assert "Range" not in server.requests[-1]


def test_without_any_version_the_length_must_agree(server: Server, get: Get) -> None:
    server.version, server.always_breaks, server.breaks = None, 0, [100_000]
    with pytest.raises(DownloadError):
        get(sha256=None)
    server.always_breaks = None
    longer = {**dict.fromkeys(PICTURES, b"other" * 30_000), "train2017/9.jpg": b"new"}
    server.files["train.zip"] = zipped(longer)
    assert files_in(get(sha256=None)) == {f"images/{name}": content for name, content in longer.items()}


def test_a_damaged_record_restarts_the_download(server: Server, get: Get, tmp_path: Path) -> None:
    server.always_breaks, server.breaks = 0, [100_000]
    with pytest.raises(DownloadError):
        get()
    (tmp_path / "data/.downloads/train.zip.json").write_text("{", "utf-8")
    server.always_breaks = None
    assert files_in(get()) == UNPACKED
    assert "Range" not in server.requests[-1]


def test_a_length_stated_too_long_ends_with_416(server: Server, get: Get) -> None:
    server.claims_more = 7
    assert files_in(get()) == UNPACKED
    assert server.has_sent(len(server.files["train.zip"]))
    assert len(server.requests) == 2


def test_a_length_stated_too_short_ends_with_a_wrong_checksum(server: Server, get: Get) -> None:
    server.claims_more = -7
    with pytest.raises(DownloadError, match="SHA-256"):
        get()


def test_a_wrong_checksum_is_reported_and_the_archive_downloaded_again(server: Server, get: Get, tmp_path: Path) -> None:
    right = server.files["train.zip"]
    server.files["train.zip"] = wrong = right[:-1] + b"!"
    with pytest.raises(DownloadError) as raised:
        get()
    for digest in (hashlib.sha256(wrong).hexdigest(), hashlib.sha256(right).hexdigest(), "expected", "train.zip.bad"):
        assert digest in str(raised.value)
    assert files_in(tmp_path / "data") == {".downloads/train.zip.bad": wrong}
    server.files["train.zip"] = right
    assert files_in(get()) == UNPACKED  # and the bad one is gone


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_final(server: Server, get: Get, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(DownloadError, match=rf"train\.zip: HTTP {status} .*; download it manually to .*\.downloads/ \(create"):
        get()
    assert len(server.requests) == 1


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_first_request_leaves_no_files(server: Server, get: Get, tmp_path: Path, existed: bool) -> None:
    server.statuses = [404]
    if existed:
        (tmp_path / "data").mkdir()
    with pytest.raises(DownloadError):
        get()
    assert list(tmp_path.iterdir()) == ([tmp_path / "data"] if existed else [])
    assert not (tmp_path / "data/.downloads").exists()


def test_a_temporary_server_error_is_retried(server: Server, get: Get, told: list[str]) -> None:
    server.statuses = [500, 503, 429]
    assert files_in(get()) == UNPACKED
    assert "train.zip: HTTP 503 Service Unavailable at 0 bytes; trying again, up to 3 times" in told


def test_a_lasting_server_error_is_raised(server: Server, get: Get, told: list[str]) -> None:
    server.statuses = [500] * 9
    with pytest.raises(DownloadError, match="HTTP 500 Internal Server Error, 5 times in a row; run the same command again"):
        get()
    assert len(server.requests) == 5
    assert [line for line in told if "trying again" in line] == [
        "train.zip: HTTP 500 Internal Server Error at 0 bytes; trying again, up to 4 times"
    ]


def test_a_stalled_transfer_is_resumed(server: Server, get: Get, told: list[str]) -> None:
    server.stalls, server.breaks = True, [100_000]
    assert files_in(get(timeout=0.2)) == UNPACKED
    assert server.has_sent(len(server.files["train.zip"]))
    assert "train.zip: the server stopped sending at 100.0 kB; trying again, up to 4 times" in told


def test_redirects_are_followed_by_resumed_requests_too(server: Server, get: Get) -> None:
    server.breaks = [100_000]
    assert files_in(get(path="/moved/")) == UNPACKED
    assert [r.get("Range") for r in server.requests] == [None, None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1:1"])
def test_a_host_that_cannot_be_reached_is_one_line(tmp_path: Path, host: str) -> None:
    source = Source(f"http://{host}/x.zip", {"x": ("x",)}, ".jpg", {"x/*": 1})
    with pytest.raises(DownloadError, match=r"(cannot be resolved|refused).*5 times in a row") as raised:
        downloading.download("x", tmp_path, TerminalReporter(), {"x": Download((), (source,))}, backoff=0)
    assert "\n" not in str(raised.value)


def test_a_certificate_that_is_not_trusted_is_final(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def distrust(*arguments: object, **_: object) -> None:
        calls.append(arguments)
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "certificate has expired"
        raise urllib.error.URLError(error)

    monkeypatch.setattr("urllib.request.urlopen", distrust)
    with pytest.raises(
        DownloadError, match=r"not trusted \(certificate has expired\); check the clock and the proxy, or download it manually"
    ):
        get()
    assert len(calls) == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_the_next_call_resumes(server: Server, get: Get, tmp_path: Path, signum: signal.Signals) -> None:
    def strike() -> None:
        """Send the signal, and wait until it is handled before the second half is sent."""
        handler = signal.getsignal(signum)
        os.kill(os.getpid(), signum)
        while signal.getsignal(signum) is handler:
            threading.Event().wait(0.001)

    server.half_way = strike
    with pytest.raises(
        Stopped, match=r"stopped; .* of .* of train\.zip are kept: run the same command again to resume"
    ) as raised:
        get()
    assert raised.value.signum == signum
    kept = part(tmp_path / "data").stat().st_size
    assert 0 < kept <= len(server.files["train.zip"])
    server.half_way, server.sent = None, 0
    assert files_in(get()) == UNPACKED
    assert server.has_sent(len(server.files["train.zip"]) - kept)


def test_a_stop_while_unpacking_keeps_complete_files_and_the_archive(
    server: Server, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from picie.data.admin import unpacking

    write = unpacking._write

    def write_then_stop(*arguments: Any) -> None:
        write(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(unpacking, "_write", write_then_stop)
    with pytest.raises(Stopped, match="all unpacked files are complete"):
        get()
    first = "images/train2017/0.jpg"
    assert files_in(tmp_path / "data") == {
        first: UNPACKED[first],
        ".downloads/train.zip": server.files["train.zip"],
    }
    monkeypatch.undo()
    assert files_in(get()) == UNPACKED
    assert len(server.requests) == 1


def test_lists_are_found_anywhere_in_a_tar(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["lists.tar.gz"] = tarred(
        {**LISTS, "COCO/readme.txt": b"no", "COCO/curated/x.sh": b"no", "curated/._a.txt": b"no"}
    )
    url = f"{server.address}/lists.tar.gz"  # type: ignore[attr-defined]
    holds = {"curated/*/list.txt": 2}
    table = {"lists": Download((), (Source(url, {"curated": ("curated",)}, ".txt", holds),))}
    downloading.download("lists", tmp_path, TerminalReporter(), table)
    assert files_in(tmp_path) == {f"curated/{split}2017/list.txt": b"000000000001\n" for split in ("train", "val")}
    assert "no checksum is published: only its length and the archive's own CRCs are verified" in capsys.readouterr().out


def _tar_link(name: str, target: str, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return tarred({"train2017/0.jpg": b"0"}, info)


UNSAFE = {
    "../train2017/evil.jpg": ("train.zip", zipped({**PICTURES, "../train2017/evil.jpg": b"evil"})),
    "train2017/../../evil.jpg": ("train.zip", zipped({**PICTURES, "train2017/../../evil.jpg": b"evil"})),
    "/train2017/evil.jpg": ("train.tar.gz", tarred({**PICTURES, "/train2017/evil.jpg": b"evil"})),
    "..\\\\evil.jpg": ("train.tar.gz", tarred({**PICTURES, "..\\evil.jpg": b"evil"})),
    "train2017/link.jpg": (
        "train.zip",
        zipped({**PICTURES, "train2017/link.jpg": b"/etc/passwd"}, **{"train2017/link.jpg": stat.S_IFLNK | 0o777}),
    ),
    "train2017/soft.jpg": ("train.tar.gz", _tar_link("train2017/soft.jpg", "/etc/passwd", tarfile.SYMTYPE)),
    "train2017/hard.jpg": ("train.tar.gz", _tar_link("train2017/hard.jpg", "/etc/passwd", tarfile.LNKTYPE)),
    "train2017/device": ("train.tar.gz", _tar_link("train2017/device", "", tarfile.CHRTYPE)),
}


def fetch_archive(server: Server, root: Path, name: str, content: bytes, n: int = 3) -> None:
    server.files[name] = content
    url = f"{server.address}/{name}"  # type: ignore[attr-defined]
    source = Source(url, {"train2017": PLACES}, ".jpg", {"train2017/*.jpg": n})
    downloading.download("x", root, TerminalReporter(), {"x": Download((), (source,))}, backoff=0)


@pytest.mark.parametrize("member", UNSAFE)
def test_an_unsafe_archive_is_refused_before_anything_is_written(server: Server, tmp_path: Path, member: str) -> None:
    name, content = UNSAFE[member]
    with pytest.raises(DownloadError) as raised:
        fetch_archive(server, tmp_path / "data", name, content)
    assert repr(member.replace("\\\\", "\\")) in str(raised.value)
    assert "unsafe, so nothing was unpacked" in str(raised.value)
    assert files_in(tmp_path) == {f"data/.downloads/{name}.bad": content}


def test_a_too_long_name_is_refused_and_abbreviated(server: Server, tmp_path: Path) -> None:
    content = zipped({**PICTURES, f"train2017/{'x' * 9_000}.jpg": b"evil"})
    with pytest.raises(DownloadError, match=r"contains the name 'train2017/x{60,80}: unsafe, so nothing was unpacked"):
        fetch_archive(server, tmp_path / "data", "train.zip", content)
    assert files_in(tmp_path) == {"data/.downloads/train.zip.bad": content}


def test_the_builders_of_unsafe_archives_make_safe_ones_that_pass(server: Server, tmp_path: Path) -> None:
    fetch_archive(server, tmp_path / "zip", "train.zip", zipped(PICTURES, **dict.fromkeys(PICTURES, stat.S_IFREG | 0o644)))
    fetch_archive(server, tmp_path / "tar", "train.tar.gz", tarred(PICTURES))
    assert files_in(tmp_path / "zip") == files_in(tmp_path / "tar") == UNPACKED


@pytest.mark.parametrize("name", ["train.zip", "train.tar.gz"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "a web page"])
def test_an_incomplete_archive_is_not_unpacked(server: Server, tmp_path: Path, name: str, damage: str) -> None:
    whole = zipped(PICTURES) if name == "train.zip" else tarred(PICTURES)
    content = {"truncated": whole[:-9], "empty": b"", "a web page": b"<html>please log in</html>"}[damage]
    with pytest.raises(DownloadError, match=r"is damaged or not an archive.*bad, and the same command downloads it again"):
        fetch_archive(server, tmp_path, name, content)
    assert files_in(tmp_path) == {f".downloads/{name}.bad": content}


def test_a_damaged_member_is_not_put_in_place(server: Server, tmp_path: Path) -> None:
    content = bytearray(zipped(PICTURES))
    content[150_000] ^= 1  # within the second picture
    with pytest.raises(DownloadError, match=r"train2017/1\.jpg in it is damaged \(Bad CRC-32"):
        fetch_archive(server, tmp_path, "train.zip", bytes(content))
    assert set(files_in(tmp_path)) == {"images/train2017/0.jpg", ".downloads/train.zip.bad"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_decompressor_error_marks_the_archive_as_bad(server: Server, tmp_path: Path, compression: int) -> None:
    content = bytearray(zipped(PICTURES, compression))
    content[120_000:120_100] = bytes(100)  # within the second picture
    with pytest.raises(
        DownloadError, match=r"train2017/1\.jpg in it is damaged \(\S.*bad, and the same command downloads it again"
    ):
        fetch_archive(server, tmp_path, "train.zip", bytes(content))
    assert set(files_in(tmp_path)) == {"images/train2017/0.jpg", ".downloads/train.zip.bad"}


class EndlessDisk:
    free = 2**62


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_with_any_bytes_changed_is_unpacked_right_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: int
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: EndlessDisk)  # a changed size may be of terabytes
    small = {"train2017/0.jpg": b"picture " * 20}
    whole, source = zipped(small, compression), Source("", {"train2017": PLACES}, ".jpg", {"train2017/*.jpg": 1})
    refused, dice = 0, random.Random(0)
    for trial in range(150):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        root = tmp_path / str(trial)
        root.mkdir()
        (root / "a.zip").write_bytes(content)
        try:
            unpack(root / "a.zip", source, root, lambda _: None, StopRequest())
        except BadArchiveError:
            refused += 1
        assert all(path.read_bytes() == small["train2017/0.jpg"] for path in root.rglob("*.jpg"))
    assert 75 < refused < 150


def test_an_empty_name_is_damage(tmp_path: Path) -> None:
    content = zipped({"x": b""}).replace(b"x", b"\0")  # a name ends at its first zero
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BadArchiveError, match="is damaged or not an archive"):
        unpack(tmp_path / "a.zip", Source("", {}, ".jpg", {}), tmp_path, lambda _: None, StopRequest())


def test_an_archive_with_too_few_files_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not the expected archive: 1 of 4 files are missing"):
        fetch_archive(server, tmp_path, "train.zip", zipped(PICTURES), n=4)


def test_missing_disk_space_is_reported_before_any_download(
    server: Server, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 600_000  # the archive and its files alone would fit, but not with their last blocks

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(InputError, match=r"data: needs about 612\.3 kB of disk space, 600\.0 kB are free; free some"):
        get()
    assert server.requests == []
    assert not (tmp_path / "data").exists()
    Usage.free = 612_288
    get()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_loses_nothing(server: Server, get: Get, tmp_path: Path) -> None:
    (tmp_path / "data/images/train2017").mkdir(parents=True)
    (tmp_path / "data/images/train2017/.0.jpg.partial").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="the disk is full; free some space and run the same command again to resume"):
        get()
    assert set(files_in(tmp_path / "data")) == {".downloads/train.zip"}
    assert files_in(get()) == UNPACKED
    assert len(server.requests) == 1


def test_two_downloads_to_one_folder_are_refused(server: Server, get: Get, tmp_path: Path) -> None:
    second: list[Exception] = []

    def meanwhile() -> None:
        server.half_way = None
        with pytest.raises(InputError) as raised:
            get()
        second.append(raised.value)

    server.half_way = meanwhile
    assert files_in(get()) == UNPACKED
    assert "another picie process is downloading to it" in str(second[0])


def test_progress_bars_are_shown_on_a_terminal(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=120))
    get()
    assert "checking train.zip" in screen.getvalue()


@pytest.mark.parametrize("name", BY_HAND)
def test_cityscapes_is_explained_instead(cli: Callable[..., tuple[int, str, str]], tmp_path: Path, name: str) -> None:
    status, out, err = cli("data", "download", name, tmp_path / "city")
    assert (status, err) == (2, f"picie: error: {name}: needs your own login, so nothing was fetched; the steps are above\n")
    for needed in (
        "https://www.cityscapes-dataset.com",
        "leftImg8bit_trainvaltest.zip",
        "gtFine_trainvaltest.zip",
        "csDownload",
    ):
        assert needed in out
    assert f"picie data check {name} {tmp_path / 'city'}" in out
    assert not (tmp_path / "city").exists()


def test_datasets_without_download_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there is nothing to fetch" in refused("data", "download", "scenes", tmp_path)
    assert "there is nothing to fetch" in refused("data", "download", "folder", tmp_path)
    assert "did you mean 'cocostuff27'?" in refused("data", "download", "cocostuf27", tmp_path)
    file = tmp_path / "file"
    file.write_text("", "utf-8")
    assert "is a file" in refused("data", "download", "cocostuff27", file)


def test_the_table_of_downloads_is_consistent() -> None:
    assert set(DOWNLOADS) == {"cocostuff27", "cocostuff15", "cocostuff12", "cocostuff171"}
    for source in (source for dataset in DOWNLOADS.values() for source in dataset.sources):
        assert source.name.endswith((".zip", ".tar.gz"))
        assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32
        assert all(pattern.endswith(source.suffix) for pattern in source.holds)
        assert {pattern.partition("/")[0] for pattern in source.holds} == set(source.folders)
