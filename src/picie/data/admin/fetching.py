"""Download one file with resumption.

Received data is kept in NAME.part. NAME.json beside it records the version (ETag or date) of the
remote file, and only the rest of that version is requested, so two versions are never mixed.
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

from picie.data.sizes import decimal
from picie.errors import DownloadError
from picie.runtime.interrupts import StopRequest
from picie.runtime.output_paths import write_text
from picie.version import __version__

log = logging.getLogger(__name__)

_CHUNK = 1 << 18  # bytes
_ATTEMPTS = 5  # maximum number of attempts in a row without new data
_TEMPORARY = {408, 429, 500, 502, 503, 504}  # HTTP statuses that justify another attempt


class _Interrupted(Exception):
    """The transfer ended early; another attempt may resume it."""


class PartialFile:
    """A partially downloaded file, and the record of its version.

    Args:
        target: path of the complete file.
        url: address of the file; a partial file of another address is deleted.

    Attributes:
        path: the partial file, NAME.part.
        version: ETag or date of the remote file; None: unknown.
        length: length of the complete file in bytes; None: unknown.
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
        """Number of bytes received."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def begin(self, version: str | None, length: int | None) -> None:
        """Delete the received data, then record a new version; this order keeps both consistent."""
        self.path.write_bytes(b"")
        self.version, self.length = version, length
        write_text(self._record, json.dumps({"url": self.url, "version": version, "length": length}) + "\n")


def part_path(target: Path) -> Path:
    """The file with the data received for `target`."""
    return target.with_name(f"{target.name}.part")


def record_path(target: Path) -> Path:
    """The file that records where `target` came from."""
    return target.with_name(f"{target.name}.json")


def read_record(target: Path) -> dict[str, Any]:
    """The record of `target`; empty if there is none or it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(record_path(target).read_text("utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def fetch(
    url: str, target: Path, advance: Callable[[int], None], stop: StopRequest, timeout: float = 30.0, backoff: float = 1.0
) -> None:
    """Download `url` to `target`, which is created once it is complete.

    Args:
        url: http or https; redirects are followed.
        target: path of the file; NAME.part and NAME.json are kept beside it until then.
        advance: called with the number of bytes received, first those of an earlier call; negative
            if they had to be deleted.
        stop: checked between reads.
        timeout: seconds without data after which an attempt is aborted.
        backoff: seconds before the second attempt; doubled before each further one.

    Raises:
        DownloadError: the server refuses, cannot be reached, or ends the connection `_ATTEMPTS`
            times without new data.
        Stopped: a signal arrived; received data is kept.
    """
    part = PartialFile(target, url)
    advance(part.size)
    max_size, failures, last_message = part.size, 0, ""
    while part.length is None or part.size != part.length:
        try:
            _receive(part, advance, stop, timeout)
            break
        except _Interrupted as error:
            failures = 1 if part.size > max_size else failures + 1
            max_size = max(max_size, part.size)
            if failures == _ATTEMPTS:
                received = f"{decimal(part.size)} are kept: " if part.size else ""
                raise DownloadError(
                    f"{url}: {error}, {_ATTEMPTS} times in a row; {received}run the same command again to resume"
                ) from error
            if failures == 1 or last_message != str(error):
                remaining = _ATTEMPTS - failures
                log.warning("%s: %s at %s; trying again, up to %d times", target.name, error, decimal(part.size), remaining)
            last_message = str(error)
        stop.check(_stopped(target.name, part))
        time.sleep(backoff * 2 ** (failures - 1))
    part.path.replace(target)


def _stopped(name: str, part: PartialFile) -> str:
    of = "" if part.length is None else f" of {decimal(part.length)}"
    return f"stopped; {decimal(part.size)}{of} of {name} are kept: run the same command again to resume"


def _receive(part: PartialFile, advance: Callable[[int], None], stop: StopRequest, timeout: float) -> None:
    """Request the missing data once; return when `part` is complete, else raise `_Interrupted`."""
    with _open(part, timeout) as response:
        status = response.status
        if status == 416 and _total(response) == part.size:
            return  # the server had stated a wrong length
        if status != 200 and not _continues(response, status, part):
            advance(-part.size)
            part.begin(None, None)
            raise _Interrupted("the file on the server has changed, so the download starts again")
        if status == 200:
            if part.size:
                log.warning("%s: the download starts again (the file has changed, or the server cannot resume)", part.path.stem)
            advance(-part.size)
            part.begin(_version(response), _number(response.headers.get("Content-Length")))
        _append(response, part, advance, stop)
    if part.length is not None and part.size < part.length:
        raise _Interrupted("the connection ended early")


def _append(response: Any, part: PartialFile, advance: Callable[[int], None], stop: StopRequest) -> None:
    with part.path.open("ab") as file:
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Interrupted(_reason(error)) from error
            if not chunk:
                return
            file.write(chunk)
            advance(len(chunk))
            if stop.signum is not None:
                file.flush()
                stop.check(_stopped(part.path.stem, part))


def _continues(response: Any, status: int, part: PartialFile) -> bool:
    """Whether a partial response continues `part`: same version, same length, from its end."""
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    same = part.version == _version(response) and part.length in (None, _total(response))
    return status == 206 and start is not None and int(start[1]) == part.size and same


def _total(response: Any) -> int | None:
    """Length of the complete file, from a partial or a 416 response."""
    return _number(response.headers.get("Content-Range", "").rpartition("/")[2])


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _version(response: Any) -> str | None:
    """The value for If-Range: a strong ETag if there is one, else the date."""
    etag = response.headers.get("ETag", "")
    chosen = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    return None if chosen is None else str(chosen)


def _open(part: PartialFile, timeout: float) -> Any:
    """The response, with status 200, 206 or 416.

    Raises:
        _Interrupted: a temporary failure.
        DownloadError: a permanent one.
    """
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
        if error.code in _TEMPORARY:
            raise _Interrupted(f"HTTP {error.code} {error.reason}") from error
        raise DownloadError(f"{part.url}: HTTP {error.code} {error.reason}; {_by_hand(part)}") from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError(f"{part.url}: {_reason(cause)}; check the clock and the proxy, or {_by_hand(part)}") from error
        raise _Interrupted(_reason(cause)) from error


def _by_hand(part: PartialFile) -> str:
    return f"download it manually to {part.path.parent}/ (create that folder), and run the same command again"


def _reason(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name cannot be resolved (is there a network?)"
    if isinstance(error, TimeoutError):
        return "the server stopped sending"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
