"""Files on object stores and web servers, through fsspec."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from picie.data.formats import IMAGE_SUFFIXES
from picie.data.frames import VIDEO_SUFFIXES
from picie.data.loading import read_ahead
from picie.data.search import is_output, is_searched, matches
from picie.errors import InputError
from picie.runtime.atomic_write import is_disk_full

_DOWNLOADS = 16  # files at a time
_AHEAD, _SPACE = 64, 2**30  # files, and bytes of temporary disk space, that are downloaded ahead
# what changes with the content of a file, by the names that file systems give it
_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "md5",
    "content_md5",
    "crc32c",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)


def is_remote(path: object) -> bool:
    """Whether `path` is a URL such as s3://bucket/photos."""
    scheme, separator, _ = str(path).partition("://")
    return bool(separator) and len(scheme) > 1 and not isinstance(path, Path)


@dataclass(frozen=True)
class RemoteFile:
    """One file.

    Attributes:
        url: its URL.
        signature: its size in bytes, and a number that changes with its content.
    """

    url: str
    signature: tuple[int, int]

    @property
    def name(self) -> str:
        """The name without folders."""
        return PurePosixPath(self.url).name

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot."""
        return PurePosixPath(self.url).suffix

    def __str__(self) -> str:
        return self.url


Source = Path | RemoteFile
"""An input file, on this machine or elsewhere; `str` of it is the key of its prediction."""


class RemoteRoot:
    """A folder or file that a URL names.

    Args:
        url: its URL.

    Raises:
        InputError: fsspec, or its package for the protocol, is not installed, or it fails.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            import fsspec
        except ImportError as error:
            raise InputError(f"{url}: needs fsspec; pip install 'picie[remote]'") from error
        try:
            self._fs, self._path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise InputError(
                f"{url}: needs the package of this store ({_words(error)}); pip install it beside 'picie[remote]'"
            ) from error
        except Exception as error:  # of the libraries of many stores
            raise _refused(url, error) from error

    @classmethod
    def writable(cls, url: str) -> RemoteRoot:
        """Open the folder of results. Raises `InputError` if its protocol only reads."""
        if url.split("://")[0] in {"http", "https"}:
            raise InputError(f"--out {url}: a web server cannot be written to; give a folder, or one on an object store")
        return cls(url)

    def names(self) -> dict[str, Any]:
        """Return what is known about each file below the folder, by its path relative to it."""
        try:
            found = self._fs.find(self._path, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise _refused(self.url, error) from error
        return {name.removeprefix(self._path).lstrip("/"): info for name, info in sorted(found.items())}

    def file(self, name: str = "", info: Mapping[str, Any] | None = None) -> RemoteFile:
        """Return a file below the folder, or the one that the URL names. Raises `InputError`."""
        url = f"{self.url}/{name}" if name else self.url
        try:
            if info is None or info.get("size") is None:  # a list of links has no sizes
                info = self._fs.info(f"{self._path}/{name}" if name else self._path)
        except FileNotFoundError as error:
            raise InputError(f"{url}: no such file; give images or folders of images") from error
        except Exception as error:
            raise _refused(url, error) from error
        mark = next((f"{info[key]}" for key in _MARKS if info.get(key) is not None), "")
        return RemoteFile(url, (int(info.get("size") or 0), int(hashlib.sha256(mark.encode()).hexdigest()[:12], 16)))

    def download(self, name: str, target: Path) -> None:
        """Copy a file to `target`. Raises `OSError`."""
        path = f"{self._path}/{name}" if name else self._path
        target.parent.mkdir(parents=True, exist_ok=True)
        with _as_os_error():
            self._fs.get_file(path, str(target))

    def copy_time(self, name: str, target: Path) -> None:
        """Give `target` the time of a file, if the store knows it."""
        try:
            time = self._fs.modified(f"{self._path}/{name}").timestamp()
        except Exception:  # of the libraries of many stores
            return
        os.utime(target, (time, time))

    def upload(self, source: Path, name: str) -> None:
        """Copy a file to `name`. Raises `OSError`."""
        with _as_os_error():
            self._fs.put_file(str(source), f"{self._path}/{name}")

    def delete(self, name: str) -> None:
        """Delete a file, if it exists. Raises `OSError`."""
        with _as_os_error():
            if self._fs.exists(f"{self._path}/{name}"):
                self._fs.rm_file(f"{self._path}/{name}")


def find_remote(url: str, include: Sequence[str], exclude: Sequence[str]) -> dict[Source, PurePath]:
    """Find the images that a URL names: a file with the ending of one, or all below a folder.

    As in a folder on this machine, hidden files and results of picie are left out; label maps
    beside photos are not recognised.

    Returns:
        The path of each file relative to the folder; of a single file its name.

    Raises:
        InputError: there is no image, or the store cannot be read.
    """
    root = RemoteRoot(url)
    if PurePosixPath(root.url).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        file = root.file()
        return {file: PurePosixPath(file.name)}
    infos = {PurePosixPath(name): info for name, info in root.names().items()}
    outputs = {folder for path in infos for folder in path.parents if is_output(path, folder)}
    found = [
        path
        for path in infos
        if path.suffix.lower() in IMAGE_SUFFIXES
        and is_searched(path)
        and not outputs.intersection(path.parents)
        and (not include or matches(path, include))
        and not matches(path, exclude)
    ]
    if not found:
        left = " that fits the patterns" if include or exclude else ""
        raise InputError(f"{url}: has no image file{left}; give another folder")
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        files = pool.map(lambda path: root.file(str(path), infos[path]), found)
        return dict(zip(files, found, strict=True))


@dataclass(frozen=True)
class Fetched:
    """A file to open.

    Attributes:
        source: the file, as it was given.
        path: where it is on this machine.
        error: why it is not there, or "".
    """

    source: Source
    path: Path
    error: str = ""

    def named(self, message: str) -> str:
        """Return `message` with the given name in place of that of the copy."""
        return message.replace(str(self.path), str(self.source))

    def release(self) -> None:
        """Delete the copy."""
        if isinstance(self.source, RemoteFile):
            self.path.unlink(missing_ok=True)
            with suppress(OSError):  # nothing was downloaded
                self.path.parent.rmdir()


def fetched(sources: Sequence[Source], folder: Path) -> Generator[Fetched, None, None]:
    """Yield each file; those elsewhere are copied to `folder`, ahead, in threads.

    At most 1 GB is downloaded ahead, unless a single file is larger. Raises `OSError` if the disk
    of `folder` is full.
    """
    if not any(isinstance(source, RemoteFile) for source in sources):
        yield from (Fetched(source, source) for source in sources if isinstance(source, Path))
        return

    def fetch(numbered: tuple[int, Source]) -> Fetched:
        number, source = numbered
        if isinstance(source, Path):
            return Fetched(source, source)
        path = folder / f"{number}" / source.name
        try:
            RemoteRoot(source.url).download("", path)
        except (OSError, InputError) as error:
            if isinstance(error, OSError) and is_disk_full(error):
                raise
            return Fetched(source, path, f"{source}: cannot be downloaded ({_words(error)})")
        return Fetched(source, path)

    def size(numbered: tuple[int, Source]) -> int:
        return numbered[1].signature[0] if isinstance(numbered[1], RemoteFile) else 0

    yield from read_ahead(fetch, list(enumerate(sources)), workers=_DOWNLOADS, ahead=_AHEAD, cost=size, limit=_SPACE)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for copies for the block."""
    with tempfile.TemporaryDirectory(prefix="picie-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of the libraries of many stores
        raise OSError(None, _words(error)) from error


def _refused(url: str, error: Exception) -> InputError:
    return InputError(f"{url}: cannot be opened ({_words(error)}); check the URL and your credentials")


def _words(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return " ".join(text.split())[:200]
