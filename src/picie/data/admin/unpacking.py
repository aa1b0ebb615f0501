"""Unpack selected files of an archive; each is complete or absent."""

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

from picie.data.admin.sources import Source
from picie.data.sizes import decimal
from picie.errors import DownloadError, InputError
from picie.runtime.interrupts import StopRequest

# Errors of the archive readers for damaged data: OSError for wrong offsets and bzip2's "Invalid
# data stream", IndexError for an empty name, MemoryError for a dictionary of 4 GB. Catch them only
# around reads of an open archive: a full disk raises OSError, too, and is not damage.
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
    LookupError, OverflowError, MemoryError, RuntimeError,
)  # fmt: skip


class BadArchiveError(DownloadError):
    """The archive is damaged, unsafe, or not the expected one."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    kind: str  # "file", "folder", or "link or device", which is refused
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, source: Source, root: Path, advance: Callable[[int], None], stop: StopRequest) -> None:
    """Unpack the files that `source` selects below `root`; complete files are not changed.

    All names are checked before the first file is written. Each file is written under a temporary
    name, verified by the archive's CRC, and renamed. So after an interruption all files are
    complete, and the next call adds the rest.

    Args:
        archive: a .zip or .tar.gz.
        source: the files to select and the expected result.
        root: the dataset's folder.
        advance: called with the number of files just unpacked.
        stop: checked between files.

    Raises:
        BadArchiveError: the archive is damaged, contains a link, a device or a path outside
            `root`, or has fewer files than expected.
        InputError: not enough disk space.
        Stopped: a signal arrived.
    """
    with _reading(archive) as members:
        for member in members:
            _refuse_unsafe(archive, member)
        placed = [(member, _place(member.name, source, root)) for member in members if member.kind == "file"]
        wanted = [(member, target) for member, target in placed if target is not None and not _is_unpacked(member, target)]
        _check_space(archive, root, sum(member.size for member, _ in wanted))
        for member, target in wanted:
            stop.check("stopped; all unpacked files are complete: run the same command again to resume")
            _write(archive, member, target)
            advance(1)
    n_missing = source.n_missing(root)
    if n_missing:
        raise BadArchiveError(
            f"{archive.name}: not the expected archive: {n_missing:,} of {source.n_files:,} files are missing"
        )


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[list[_Member]]:
    """Yield the members of an open archive."""
    with contextlib.ExitStack() as stack:
        # outside the try: missing permission is not damage
        file = stack.enter_context(archive.open("rb"))
        try:
            if archive.name.endswith(".zip"):
                opened = stack.enter_context(zipfile.ZipFile(file))
                members = [_zip_member(opened, info) for info in opened.infolist()]
            else:
                # its CRC is at the end: verify it before anything is written
                with gzip.open(file) as whole:
                    while whole.read(1 << 20):
                        pass
                file.seek(0)
                tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:gz"))
                members = [_tar_member(tar, info) for info in tar.getmembers()]
        except _DAMAGE as error:
            raise BadArchiveError(f"{archive.name}: is damaged or not an archive ({_reason(error)})") from error
        yield members


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    # 0 if the archive was made on a system without modes
    mode = stat.S_IFMT(info.external_attr >> 16)
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
        raise BadArchiveError(f"{archive.name}: contains a {member.kind}, {member.name!r}: unsafe, so nothing was unpacked")
    too_long = any(len(os.fsencode(part)) > 255 for part in path.parts)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name or too_long:
        raise BadArchiveError(f"{archive.name}: contains the name {member.name!r:.80}: unsafe, so nothing was unpacked")


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _place(name: str, source: Source, root: Path) -> Path | None:
    """Path of an unpacked member; None if it is not selected."""
    path = PurePosixPath(name)
    start = next((i for i, part in enumerate(path.parts[:-1]) if part in source.folders), None)
    # "._x.jpg" is macOS metadata
    if start is None or path.suffix != source.suffix or path.name.startswith("."):
        return None
    return source.place(root, path.parts[start]).joinpath(*path.parts[start + 1 :])


def _is_unpacked(member: _Member, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == member.size


def _check_space(archive: Path, root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise InputError(
            f"{root}: unpacking {archive.name} needs {decimal(needed)}, {decimal(free)} are free; free some and run it again"
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
    """Yield the bytes of a member; its CRC is verified at the end.

    Errors while writing them are not caught here.
    """
    try:
        with member.open() as content:
            while chunk := content.read(1 << 20):
                yield chunk
    except _DAMAGE as error:
        raise BadArchiveError(f"{archive.name}: {member.name} in it is damaged ({_reason(error)})") from error
