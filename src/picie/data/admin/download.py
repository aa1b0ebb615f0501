"""`picie data download`: terms first, then each missing archive: fetched, checked, unpacked, and removed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import typer
from rich.filesize import decimal

from picie.data.admin.fetching import fetch, part_path, read_record, record_path
from picie.data.admin.sources import BY_HAND, DOWNLOADS, NOTHING_TO_FETCH, Download, Source
from picie.data.admin.unpacking import BadArchiveError, unpack
from picie.errors import DownloadError, InputError, nearest
from picie.runtime.checkpoint import exclusive
from picie.runtime.interrupts import StopRequest, graceful_stop
from picie.runtime.output_paths import missing as folders_to_make
from picie.runtime.progress import Progress

log = logging.getLogger(__name__)

_STORE = ".downloads"  # under the root: parts, whole archives until they are unpacked, and a record of each
_BLOCK = 4096  # bytes; a file takes up whole ones


def download(
    name: str, root: Path, table: Mapping[str, Download] = DOWNLOADS, *, timeout: float = 30.0, backoff: float = 1.0
) -> None:
    """Fetch what `root` lacks of the dataset `name`; done twice, the second call does nothing.

    Args:
        name: the dataset.
        root: its folder; made if need be.
        table: what a dataset consists of.
        timeout: seconds without a byte after which a connection is given up.
        backoff: seconds before a second attempt.

    Raises:
        InputError: an unknown dataset, one that cannot or need not be fetched, or a disk without the space for it.
        DownloadError: the network or a server failed, or an archive is not what it should be.
        Stopped: a signal came; the same call goes on.
    """
    wanted = _look_up(name, root, table)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; give the dataset's folder, which is made if need be")
    missing = [source for source in wanted.sources if source.n_missing(root)]
    if not missing:
        typer.echo(f"{root}: all files of {name} are here already; nothing to fetch")
        return
    most, in_the_end = _room(root, missing)
    _tell(name, root, wanted, missing)
    typer.echo(f"room: about {decimal(most)} at the most, {decimal(in_the_end)} in the end")
    _check_space(root, most)
    with _store(root) as store, graceful_stop() as stop, _full_disk_explained(root):
        for source in missing:
            archive = store / source.name
            if not archive.is_file():
                log.info("fetching %s", source.url)
                with Progress(unit="bytes") as bars, bars.bar(source.name, source.size) as advance:
                    fetch(source.url, archive, advance, stop, timeout, backoff)
            _check_sum(source, archive, stop)
            _unpack(source, archive, root, stop)
    typer.echo(f"{root}: complete; look it over with `picie data check {name} {root}`")


def _look_up(name: str, root: Path, table: Mapping[str, Download]) -> Download:
    if name in table:
        return table[name]
    if name in BY_HAND:
        typer.echo(BY_HAND[name].format(name=name, root=root), nl=False)
        raise InputError(f"{name}: needs your own login, so nothing was fetched; the steps are above")
    if name in NOTHING_TO_FETCH:
        raise InputError(f"{name}: {NOTHING_TO_FETCH[name]}; there is nothing to fetch")
    raise InputError(f"{name}: no dataset that picie can fetch; {nearest(name, [*table, *BY_HAND])}")


def _tell(name: str, root: Path, wanted: Download, missing: list[Source]) -> None:
    """Say on what terms, what, from where, how much, and how far it can be checked."""
    typer.echo(f"{name}: by fetching it you accept these terms")
    for line in wanted.terms:
        typer.echo(f"  {line}")
    here = len(wanted.sources) - len(missing)
    typer.echo(f"to fetch into {root}" + (f" ({here} of {len(wanted.sources)} archives are unpacked already)" if here else ""))
    for source in missing:
        size = "size not stated" if source.size is None else f"about {decimal(source.size)}"
        check = (
            "SHA-256 is checked"
            if source.sha256
            else "no checksum is published: only its length and the archive's own CRCs are checked"
        )
        typer.echo(f"  {source.url}\n    {size}; {check}")
    typer.echo(f"each archive is unpacked when it is whole, then removed; until then it lies in {root / _STORE}")


def _room(root: Path, missing: list[Source]) -> tuple[int, int]:
    """Bytes of disk that are needed at the most (what is unpacked so far, one archive, and its files), and in the end.

    Pictures do not compress further, so that an archive's files are about as large as itself.
    """
    needed = unpacked = 0
    for source in missing:
        archive, size = root / _STORE / source.name, source.size or 0
        here = sum(path.stat().st_size for path in (archive, part_path(archive)) if path.is_file())
        n_missing = source.n_missing(root)
        unpacked += size * n_missing // source.n_files + _BLOCK * n_missing
        needed = max(needed, unpacked + max(0, size - here))
    return needed, unpacked


def _check_space(root: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{root}: about {decimal(needed)} are needed at once, {decimal(free)} are free; make room, or take another disk"
        )


@contextlib.contextmanager
def _store(root: Path) -> Iterator[Path]:
    """The folder of what is on its way, held alone; if it ends empty, it is taken back with all that was made for it."""
    store = root / _STORE
    made = folders_to_make(store)
    store.mkdir(parents=True, exist_ok=True)
    with exclusive(store) as alone:
        if not alone:
            raise InputError(f"{root}: another picie is fetching into it; let it finish, or stop it")
        try:
            yield store
        finally:
            with contextlib.suppress(OSError):  # a folder that holds something stays
                for folder in (store, *made[1:]):
                    folder.rmdir()


@contextlib.contextmanager
def _full_disk_explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownloadError(f"{root}: the disk is full; what has come is kept: make room and run it again to go on") from error


def _check_sum(source: Source, archive: Path, stop: StopRequest) -> None:
    """Record the archive's SHA-256; raises `BadArchiveError`, and sets the archive aside, if another is expected."""
    digest = hashlib.sha256()
    size = archive.stat().st_size
    with Progress(unit="bytes") as bars, bars.bar(f"checking {source.name}", size) as advance, archive.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            advance(len(chunk))
            stop.check(f"stopped; {source.name} is whole: run the same command again to go on")
    found = digest.hexdigest()
    if source.sha256 not in (None, found):
        raise _set_aside(archive, BadArchiveError(f"{source.name}: its SHA-256 is {found}, expected {source.sha256}"))
    record = {**read_record(archive), "bytes": size, "sha256": found}
    record_path(archive).write_text(json.dumps(record) + "\n", "utf-8")


def _unpack(source: Source, archive: Path, root: Path, stop: StopRequest) -> None:
    log.info("unpacking %s", source.name)
    with Progress() as bars, bars.bar(f"unpacking {source.name}", source.n_missing(root)) as advance:
        try:
            unpack(archive, source, root, advance, stop)
        except BadArchiveError as error:
            raise _set_aside(archive, error) from error
    record = {**read_record(archive), "unpacked": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    record_path(archive).write_text(json.dumps(record) + "\n", "utf-8")
    archive.unlink()
    _bad(archive).unlink(missing_ok=True)


def _bad(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.bad")


def _set_aside(archive: Path, error: BadArchiveError) -> BadArchiveError:
    """Keep a bad archive under another name, so that the next call starts anew; returns the error that says so."""
    archive.replace(_bad(archive))
    return BadArchiveError(f"{error}; it is kept as {_bad(archive)}, and the same command fetches it anew")
