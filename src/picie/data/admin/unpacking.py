"""The wanted files of an archive, each whole in its place or not there; nothing is written outside of the dataset's root."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rich.filesize import decimal

from picie.data.admin.sources import Source
from picie.errors import DownloadError, InputError
from picie.runtime.interrupts import StopRequest

# What the readers raise on wrong bytes: OSError for wrong offsets and bzip2's "Invalid data stream", IndexError for an empty
# name, MemoryError for a dictionary of 4 GB. So it may guard the reading of an open archive alone: a full disk is no damage.
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
    LookupError, OverflowError, MemoryError, RuntimeError, NotImplementedError,
)  # fmt: skip


class BadArchiveError(DownloadError):
    """The archive is damaged, unsafe, or not the expected one."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    kind: str  # "file", "folder", or what must not be there
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, source: Source, root: Path, advance: Callable[[int], None], stop: StopRequest) -> None:
    """Put the files that `source` names under `root`; those that are there in their full size are left alone.

    Every name is looked at before the first file is written. Each file is written beside its place, checked by the archive's
    CRC, and moved there, so that stopping at any time leaves whole files alone, and the next call adds the rest.

    Args:
        archive: a .zip or .tar.gz.
        source: what to take and what must result.
        root: the dataset's folder.
        advance: called with the number of files just done.
        stop: asked between files.

    Raises:
        BadArchiveError: damaged; a name that leads out of `root`, a link or a device in it; or fewer files than expected.
        InputError: not enough space on the disk.
        Stopped: a signal came.
    """
    with _reading(archive) as members:
        for member in members:
            _refuse_unsafe(archive, member)
        placed = [(member, _place(member.name, source, root)) for member in members if member.kind == "file"]
        wanted = [(member, target) for member, target in placed if target is not None and not _is_there(member, target)]
        _check_space(archive, root, sum(member.size for member, _ in wanted))
        for member, target in wanted:
            stop.check("stopped; all files that are unpacked are whole: run the same command again to go on")
            _write(archive, member, target)
            advance(1)
    n_missing = source.n_missing(root)
    if n_missing:
        raise BadArchiveError(f"{archive.name}: is not the expected archive: {n_missing:,} of {source.n_files:,} files lack")


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[list[_Member]]:
    """The archive's members, to be opened while the context lasts."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(archive.open("rb"))  # a file that may not be opened is not damaged
        try:
            if archive.name.endswith(".zip"):
                opened = stack.enter_context(zipfile.ZipFile(file))
                members = [_zip_member(opened, info) for info in opened.infolist()]
            else:
                with gzip.open(file) as whole:  # its CRC comes last: read through to it before anything is written
                    while whole.read(1 << 20):
                        pass
                file.seek(0)
                tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:gz"))
                members = [_tar_member(tar, info) for info in tar.getmembers()]
        except _DAMAGE as error:
            raise BadArchiveError(f"{archive.name}: is damaged or no archive at all ({_reason(error)})") from error
        yield members


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive comes from a system without modes
    plain = "folder" if info.is_dir() else "file"
    kind = plain if mode in (0, stat.S_IFREG, stat.S_IFDIR) else "link or device"
    return _Member(info.filename, info.file_size, kind, lambda: opened.open(info))


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def content() -> IO[bytes]:
        file = tar.extractfile(info)
        assert file is not None  # `info` is a plain file
        return file

    kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
    return _Member(info.name, info.size, kind, content)


def _refuse_unsafe(archive: Path, member: _Member) -> None:
    path = PurePosixPath(member.name)
    if member.kind not in ("file", "folder"):
        raise BadArchiveError(f"{archive.name}: holds a {member.kind}, {member.name!r}: unsafe, so nothing was unpacked")
    too_long = any(len(os.fsencode(part)) > 255 for part in path.parts)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name or too_long:
        raise BadArchiveError(f"{archive.name}: holds the name {member.name!r:.80}: unsafe, so nothing was unpacked")


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _place(name: str, source: Source, root: Path) -> Path | None:
    """Where a member belongs; None for what is not wanted."""
    path = PurePosixPath(name)
    start = next((i for i, part in enumerate(path.parts[:-1]) if part in source.folders), None)
    if start is None or path.suffix != source.suffix or path.name.startswith("."):  # "._x.jpg" is a Mac's note, no picture
        return None
    return source.place(root, path.parts[start]).joinpath(*path.parts[start + 1 :])


def _is_there(member: _Member, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == member.size


def _check_space(archive: Path, root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise InputError(
            f"{root}: unpacking {archive.name} needs {decimal(needed)}, {decimal(free)} are free; make room and run it again"
        )


def _write(archive: Path, member: _Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            for chunk in _content(archive, member):
                file.write(chunk)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _content(archive: Path, member: _Member) -> Iterator[bytes]:
    """A member's bytes, piece by piece, its CRC checked at the end; what becomes of them is not within the guard."""
    try:
        with member.open() as content:
            while chunk := content.read(1 << 20):
                yield chunk
    except _DAMAGE as error:
        raise BadArchiveError(f"{archive.name}: {member.name} in it is damaged ({_reason(error)})") from error
