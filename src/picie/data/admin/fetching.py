"""One file from a web server, whole or not at all, going on where an earlier attempt or call stopped.

What has come lies in NAME.part; NAME.json beside it records which version of the remote file it is a part of (its ETag or
date), and the server is asked for the rest of that version alone. So two versions are never glued together.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from picie.errors import DownloadError
from picie.runtime.interrupts import StopRequest
from picie.version import __version__

log = logging.getLogger(__name__)

_CHUNK = 1 << 18  # bytes
_ATTEMPTS = 5  # in a row that bring nothing new
_PASSING = {408, 429, 500, 502, 503, 504}  # HTTP statuses that may be better a moment later


class _Broken(Exception):
    """The transfer ended early; trying again may go on where it stopped."""


class Part:
    """A file on its way: `path` (NAME.part) and the record of the version that it is a part of.

    Args:
        target: where the whole file will lie.
        url: where it comes from; the part of another address is not gone on with.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.path = part_path(target)
        self.url = url
        self._record = record_path(target)
        record = read_record(target)
        known = record.get("url") == url and self.path.is_file()
        self.version: str | None = record.get("version") if known else None
        self.length: int | None = record.get("length") if known else None
        if not known:
            self.path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """The bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def begin(self, version: str | None, length: int | None) -> None:
        """Drop what is here, then record the version that is to come; in this order, so that they never disagree."""
        self.path.write_bytes(b"")
        self.version, self.length = version, length
        self._record.write_text(json.dumps({"url": self.url, "version": version, "length": length}) + "\n", "utf-8")


def part_path(target: Path) -> Path:
    """The file that holds what has come of `target`."""
    return target.with_name(f"{target.name}.part")


def record_path(target: Path) -> Path:
    """The file that records where `target` came from."""
    return target.with_name(f"{target.name}.json")


def read_record(target: Path) -> dict[str, Any]:
    """What is recorded of `target`; empty if nothing is, or the record is damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(record_path(target).read_text("utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def fetch(
    url: str, target: Path, advance: Callable[[int], None], stop: StopRequest, timeout: float = 30.0, backoff: float = 1.0
) -> None:
    """Fetch `url` to `target`, which appears once it is whole.

    Args:
        url: http or https; redirects are followed.
        target: NAME.part and NAME.json are kept beside it meanwhile.
        advance: called with the bytes just gained, at first those that lie here already; negative if they had to be dropped.
        stop: asked between reads.
        timeout: seconds without a byte after which an attempt is given up.
        backoff: seconds before the second attempt; doubled before each further one.

    Raises:
        DownloadError: the server refuses, cannot be reached, or breaks off `_ATTEMPTS` times without anything new.
        Stopped: a signal came; what has come is kept.
    """
    part = Part(target, url)
    advance(part.size)
    furthest, failures, told = part.size, 0, ""
    while part.length is None or part.size != part.length:
        try:
            _receive(part, advance, stop, timeout)
            break
        except _Broken as error:
            failures = 1 if part.size > furthest else failures + 1
            furthest = max(furthest, part.size)
            if failures == _ATTEMPTS:
                kept = f"{decimal(part.size)} are kept: " if part.size else ""
                raise DownloadError(
                    f"{url}: {error}, {_ATTEMPTS} times in a row; {kept}run the same command again to go on"
                ) from error
            if failures == 1 or told != str(error):
                left = _ATTEMPTS - failures
                log.warning("%s: %s at %s; trying again, %d times if need be", target.name, error, decimal(part.size), left)
            told = str(error)
        stop.check(_stopped(target.name, part))
        time.sleep(backoff * 2 ** (failures - 1))
    part.path.replace(target)


def _stopped(name: str, part: Part) -> str:
    of = "" if part.length is None else f" of {decimal(part.length)}"
    return f"stopped; {decimal(part.size)}{of} of {name} are kept: run the same command again to go on"


def _receive(part: Part, advance: Callable[[int], None], stop: StopRequest, timeout: float) -> None:
    """One request for what is missing; returns once `part` is whole."""
    with _open(part, timeout) as response:
        status = response.status
        if status == 416 and _total(response) == part.size:
            return  # a server that had named a wrong length before
        if status != 200 and not _goes_on(response, status, part):
            advance(-part.size)
            part.begin(None, None)
            raise _Broken("the file on the server has changed, so it starts anew")
        if status == 200:
            if part.size:
                log.warning("%s: the server starts it anew (it has changed, or cannot be resumed)", part.path.stem)
            advance(-part.size)
            part.begin(_version(response), _number(response.headers.get("Content-Length")))
        _append(response, part, advance, stop)
    if part.length is not None and part.size < part.length:
        raise _Broken("the connection ended early")


def _append(response: Any, part: Part, advance: Callable[[int], None], stop: StopRequest) -> None:
    with part.path.open("ab") as file:
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(_reason(error)) from error
            if not chunk:
                return
            file.write(chunk)
            advance(len(chunk))
            if stop.signum is not None:
                file.flush()
                stop.check(_stopped(part.path.stem, part))


def _goes_on(response: Any, status: int, part: Part) -> bool:
    """Whether a partial response continues `part`: same version, same length, from where it ends."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    same = part.version == _version(response) and part.length in (None, _total(response))
    return status == 206 and found is not None and int(found[1]) == part.size and same


def _total(response: Any) -> int | None:
    """The whole file's length, of a partial or a 416 response."""
    return _number(response.headers.get("Content-Range", "").rpartition("/")[2])


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _version(response: Any) -> str | None:
    """What If-Range takes: the ETag unless it is a weak one, else the date."""
    etag = response.headers.get("ETag", "")
    chosen = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    return None if chosen is None else str(chosen)


def _open(part: Part, timeout: float) -> Any:
    """The server's answer: 200, 206 or 416. Raises `_Broken` for what may pass, `DownloadError` for what will not."""
    headers = {"User-Agent": f"picie/{__version__}", "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.version is not None:
            headers["If-Range"] = part.version
    try:
        return urllib.request.urlopen(urllib.request.Request(part.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and part.size:
            return error
        if error.code in _PASSING:
            raise _Broken(f"HTTP {error.code} {error.reason}") from error
        raise DownloadError(f"{part.url}: HTTP {error.code} {error.reason}; {_by_hand(part)}") from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError(f"{part.url}: {_reason(cause)}; mind the clock and the proxy, or {_by_hand(part)}") from error
        raise _Broken(_reason(cause)) from error


def _by_hand(part: Part) -> str:
    return f"fetch it by hand, put it into {part.path.parent}/ (make that folder), and run the same command again"


def _reason(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "the host's name cannot be resolved (is there a network?)"
    if isinstance(error, TimeoutError):
        return "the server fell silent"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
