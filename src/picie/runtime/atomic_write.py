"""Writes files so that a full disk or a killed process leaves the earlier file intact."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_ZEROS = bytes(2**20)
_PARTIAL = re.compile(r"\.(earlier\.)?[0-9a-f]{8}\.\d+(\.rows)?\.partial")


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replace the file at `path` in one step.

    The content is first created in memory, because torch's writer aborts the process if the disk
    is full. Then it is written to a temporary file beside `path`, forced to disk, and renamed.

    Args:
        path: the file.
        write: called with a binary file in memory; writes the content to it.

    Raises:
        OSError: the file cannot be written; what was at `path` before is unchanged.
    """
    content = io.BytesIO()
    write(content)
    check_room(path, content.tell())
    with partial_file(path) as partial, partial.open("wb") as file:
        file.write(content.getbuffer())


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file's path beside `path`, for writers that need a name.

    At the end of the block the file is forced to disk and replaces the file at `path` in one step.
    If the block fails, it is deleted.

    Raises:
        OSError: the file cannot be written; what was at `path` before is unchanged.
    """
    partial = _partial(path)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`.

    At the end of the block it replaces the folder at `path`. If the block fails, it is deleted,
    and what was at `path` before is unchanged. Folders that killed processes left there for the
    same `path` are deleted, too.
    """
    partial = _partial(path)
    earlier = partial.with_name(f".earlier{partial.name}")
    try:
        partial.mkdir()
        yield partial
        if path.is_dir():
            path.replace(earlier)
        partial.replace(path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        if earlier.exists() and not path.exists():
            earlier.replace(path)
        for left in (partial, earlier):
            _delete_folder(left)
    for left in list(path.parent.iterdir()):
        if is_partial(left) and left.name.removeprefix(".earlier").startswith(_start(path)):
            _delete_folder(left)
    _sync_folder(path.parent)


def _partial(path: Path) -> Path:
    """The temporary path for `path`. It is short, to fit where a long name with a suffix does not."""
    return path.with_name(f"{_start(path)}{os.getpid()}.partial")


def _start(path: Path) -> str:
    """The start of the name of every temporary path for `path`."""
    return f".{zlib.crc32(path.name.encode('utf-8', 'surrogateescape')):08x}."


def _delete_folder(path: Path) -> None:
    """Delete a folder, if it exists and is not a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def reserve(file: BinaryIO, path: Path, size: int) -> None:
    """Allocate `size` bytes on the disk for an open file.

    If the bytes of a memory-mapped file were not allocated, a full disk would end the process by
    SIGBUS.

    Args:
        file: the file, open for writing.
        path: its path, for the error.
        size: its size in bytes.

    Raises:
        OSError: there is no room for it.
    """
    try:
        check_room(path, size - os.fstat(file.fileno()).st_size)
        if not _allocate(file, size):
            file.seek(0, os.SEEK_END)
            while (missing := size - file.tell()) > 0:
                file.write(_ZEROS[:missing])
            file.flush()
    except OSError as error:
        raise _named(error, path) from error


def _allocate(file: BinaryIO, size: int) -> bool:
    """Allocate the bytes; return False if the system cannot (macOS, some network drives)."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            return False
        raise
    return True


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for lack of space, a quota, or the maximum file size."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_partial(path: Path) -> bool:
    """Whether `path` is named exactly like a temporary file or folder of this module."""
    return _PARTIAL.fullmatch(path.name) is not None


def clear_partials(folder: Path) -> None:
    """Delete the temporary files that killed processes left in `folder`, but not below it.

    Links, folders and files of other programs are kept. No other process may be writing to the
    folder.
    """
    for path in list(folder.iterdir()):
        if is_partial(path) and path.is_file() and not path.is_symlink():
            path.unlink()


def check_room(path: Path, size: int) -> None:
    """Raise `OSError` unless the disk of `path` has room for `size` bytes."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _named(error: OSError, path: Path) -> OSError:
    """Return `error` with the file's own name instead of that of the temporary file."""
    return OSError(error.errno, error.strerror, str(path))


def _sync_folder(folder: Path) -> None:
    """Force a rename to disk, on systems that can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network drives cannot
        pass
    finally:
        os.close(handle)
