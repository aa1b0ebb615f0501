"""`picie data download`: show the terms, then fetch, verify, unpack and delete each archive."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from picie.data.admin.fetching import fetch, part_path, read_record, record_path
from picie.data.admin.reporting import Reporter
from picie.data.admin.sources import BY_HAND, DOWNLOADS, NOTHING_TO_FETCH, Download, Source
from picie.data.admin.unpacking import BadArchiveError, unpack
from picie.data.sizes import decimal
from picie.errors import DownloadError, InputError, nearest
from picie.runtime.atomic_write import is_disk_full
from picie.runtime.checkpoint import exclusive
from picie.runtime.interrupts import StopRequest, graceful_stop
from picie.runtime.output_paths import missing as folders_to_make
from picie.runtime.output_paths import write_text

log = logging.getLogger(__name__)

# below the root: partial files, archives until they are unpacked, and a record of each
_STORE = ".downloads"
_BLOCK = 4096  # bytes; files occupy whole blocks


def download(
    name: str,
    root: Path,
    reporter: Reporter,
    table: Mapping[str, Download] = DOWNLOADS,
    *,
    timeout: float = 30.0,
    backoff: float = 1.0,
) -> None:
    """Fetch files of the dataset `name` that are missing in `root`; a second call does nothing.

    Args:
        name: the dataset.
        root: its folder; created if it does not exist.
        reporter: shows the terms, the plan and the progress.
        table: the files of each dataset.
        timeout: seconds without data after which a connection is closed.
        backoff: seconds before the second attempt.

    Raises:
        InputError: an unknown dataset, one that cannot or need not be fetched, or not enough disk
            space.
        DownloadError: the network or a server failed, or an archive is not the expected one.
        Stopped: a signal arrived; the same call resumes.
    """
    dataset = _look_up(name, root, table, reporter)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; give the dataset's folder, which is created if it does not exist")
    missing = [source for source in dataset.sources if source.n_missing(root)]
    if not missing:
        reporter.line(f"{root}: all files of {name} are present; nothing to fetch")
        return
    _show_plan(name, root, dataset, missing, reporter)
    peak, final = _required_space(root, missing)
    reporter.line(f"disk space: about {decimal(peak)} while downloading, {decimal(final)} afterwards")
    _check_space(root, peak)
    with _store(root) as store, graceful_stop("stopping; what was fetched is kept") as stop, _full_disk_explained(root):
        for source in missing:
            archive = store / source.name
            if not archive.is_file():
                log.info("fetching %s", source.url)
                with reporter.bar(source.name, source.size, "bytes") as advance:
                    fetch(source.url, archive, advance, stop, timeout, backoff)
            _verify_checksum(source, archive, reporter, stop)
            _unpack(source, archive, root, reporter, stop)
    reporter.line(f"{root}: complete; verify it with `picie data check {name} {root}`")


def _look_up(name: str, root: Path, table: Mapping[str, Download], reporter: Reporter) -> Download:
    if name in table:
        return table[name]
    if name in BY_HAND:
        reporter.line(BY_HAND[name].format(name=name, root=root).rstrip("\n"))
        raise InputError(f"{name}: needs your own login, so nothing was fetched; the steps are above")
    if name in NOTHING_TO_FETCH:
        raise InputError(f"{name}: {NOTHING_TO_FETCH[name]}; there is nothing to fetch")
    raise InputError(f"{name}: not a dataset that picie can fetch; {nearest(name, [*table, *BY_HAND])}")


def _show_plan(name: str, root: Path, dataset: Download, missing: list[Source], reporter: Reporter) -> None:
    """Show the terms, and each archive's address, size and checksum."""
    reporter.line(f"{name}: by fetching it you accept these terms")
    for line in dataset.terms:
        reporter.line(f"  {line}")
    total = len(dataset.sources)
    n_unpacked = total - len(missing)
    reporter.line(f"to fetch into {root}" + (f" ({n_unpacked} of {total} archives are already unpacked)" if n_unpacked else ""))
    for source in missing:
        size = "size unknown" if source.size is None else f"about {decimal(source.size)}"
        check = (
            "its SHA-256 is verified"
            if source.sha256
            else "no checksum is published: only its length and the archive's own CRCs are verified"
        )
        reporter.line(f"  {source.url}\n    {size}; {check}")
    reporter.line(f"each archive is downloaded to {root / _STORE}, unpacked once it is complete, and then deleted")


def _required_space(root: Path, missing: list[Source]) -> tuple[int, int]:
    """Bytes of disk space at the peak (files unpacked so far plus one archive), and afterwards.

    Images do not compress further, so the files of an archive are about as large as the archive.
    """
    peak = unpacked = 0
    for source in missing:
        archive, size = root / _STORE / source.name, source.size or 0
        received = sum(path.stat().st_size for path in (archive, part_path(archive)) if path.is_file())
        n_missing = source.n_missing(root)
        unpacked += size * n_missing // source.n_files + _BLOCK * n_missing
        peak = max(peak, unpacked + max(0, size - received))
    return peak, unpacked


def _check_space(root: Path, needed: int) -> None:
    """Raise `InputError` if the disk has less than `needed` bytes free."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{root}: needs about {decimal(needed)} of disk space, {decimal(free)} are free; free some, or use another disk"
        )


@contextlib.contextmanager
def _store(root: Path) -> Iterator[Path]:
    """Create and lock the folder for unfinished downloads; remove it at the end if it is empty."""
    store = root / _STORE
    created = folders_to_make(store)
    store.mkdir(parents=True, exist_ok=True)
    with exclusive(store) as acquired:
        if not acquired:
            raise InputError(f"{root}: another picie process is downloading to it; wait for it, or stop it")
        try:
            yield store
        finally:
            with contextlib.suppress(OSError):  # a folder that is not empty is kept
                for folder in (store, *created[1:]):
                    folder.rmdir()


@contextlib.contextmanager
def _full_disk_explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DownloadError(f"{root}: the disk is full; free some space and run the same command again to resume") from error


def _verify_checksum(source: Source, archive: Path, reporter: Reporter, stop: StopRequest) -> None:
    """Record the archive's SHA-256.

    If it is not the expected one, rename the archive and raise `BadArchiveError`.
    """
    digest = hashlib.sha256()
    size = archive.stat().st_size
    with reporter.bar(f"checking {source.name}", size, "bytes") as advance, archive.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            advance(len(chunk))
            stop.check(f"stopped; {source.name} is complete: run the same command again to resume")
    actual = digest.hexdigest()
    if source.sha256 not in (None, actual):
        raise _set_aside(archive, BadArchiveError(f"{source.name}: its SHA-256 is {actual}, expected {source.sha256}"))
    record = {**read_record(archive), "bytes": size, "sha256": actual}
    write_text(record_path(archive), json.dumps(record) + "\n")


def _unpack(source: Source, archive: Path, root: Path, reporter: Reporter, stop: StopRequest) -> None:
    log.info("unpacking %s", source.name)
    with reporter.bar(f"unpacking {source.name}", source.n_missing(root)) as advance:
        try:
            unpack(archive, source, root, advance, stop)
        except BadArchiveError as error:
            raise _set_aside(archive, error) from error
    record = {**read_record(archive), "unpacked": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_text(record_path(archive), json.dumps(record) + "\n")
    archive.unlink()
    _bad(archive).unlink(missing_ok=True)


def _bad(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.bad")


def _set_aside(archive: Path, error: BadArchiveError) -> BadArchiveError:
    """Rename a bad archive, so that the next call fetches it again; return the error to raise."""
    archive.replace(_bad(archive))
    return BadArchiveError(f"{error}; it is kept as {_bad(archive)}, and the same command downloads it again")
