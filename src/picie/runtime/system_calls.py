"""System calls that not every system has, each with a replacement: Windows lacks most of them."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

_LOCK_FILE = ".lock"  # where a folder itself cannot be locked


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder against other processes, without waiting, and yield whether that succeeded.

    The lock ends with the process. A folder that cannot be written needs no lock on Windows.

    Raises:
        OSError: there is no such folder.
    """
    if fcntl is None:
        with _locked_file(folder) as locked:
            yield locked
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked_file(folder: Path) -> Iterator[bool]:
    import filelock

    folder.stat()
    if not os.access(folder, os.W_OK):
        yield True
        return
    lock = filelock.FileLock(folder / _LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # another process holds it already
            (folder / _LOCK_FILE).unlink(missing_ok=True)


class RecordFile:
    """A file of records of one size, which threads read and write by number.

    Args:
        file: the file, open for reading and writing in binary mode.
        size: the size of a record in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._lock = threading.Lock()  # for systems where a file has one position for all threads

    @classmethod
    def temporary(cls, folder: Path, size: int) -> RecordFile:
        """Create a file without a name in `folder`; the system deletes it when the process ends."""
        return cls(tempfile.TemporaryFile(dir=folder), size)

    def write(self, number: int, record: bytes) -> None:
        """Write a record. Raises `OSError` if the disk is full."""
        if hasattr(os, "pwrite"):
            if os.pwrite(self._file.fileno(), record, number * self._size) < len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return
        with self._lock:
            self._file.seek(number * self._size)
            self._file.write(record)
            self._file.flush()

    def read(self, number: int, into: np.ndarray) -> None:
        """Read a record into a contiguous array of its size."""
        if hasattr(os, "preadv"):
            os.preadv(self._file.fileno(), [into.data], number * self._size)
            return
        with self._lock:
            self._file.seek(number * self._size)
            self._file.readinto(into.data)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_deleted_on_close(path: Path) -> BinaryIO:
    """Open a file for reading and writing, which Windows deletes when all have closed it."""
    flag: int = getattr(os, "O_TEMPORARY", 0)
    return open(path, "r+b", opener=lambda name, flags: os.open(name, flags | flag))


def unlink_open(path: Path) -> None:
    """Delete a file that is open; Windows deletes it later, see `open_deleted_on_close`."""
    if not hasattr(os, "O_TEMPORARY"):
        path.unlink()


def release_pages(mapped: np.memmap[Any, Any]) -> None:
    """Unmap the current pages of a mapped file, which stay in the system's file cache.

    Windows does that itself when memory is needed.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, in MB."""
    if resource is None:
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def available_cores() -> int:
    """Return the number of cores that this process may use, or of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
