"""The folder that predictions are written to: on this machine, or on an object store."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from picie.inference.remote_files import RemoteRoot, is_remote

FILE_NAME = "predictions.json"
"""The record of the predictions."""
SHARDS = "predictions.shards"
"""Folder with the records of shards, which `picie gather` joins into the file."""


class OutputFolder:
    """A folder on this machine.

    Args:
        path: the folder; it may not exist yet.

    Attributes:
        path: where files are written.
        workers: how many threads should write at a time; None chooses by the cores.
    """

    workers: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def is_empty(self) -> bool:
        """Whether there is no file."""
        return not (self.path.is_dir() and any(self.path.iterdir()))

    def has(self, name: str) -> bool:
        """Whether there is a file `name`."""
        return (self.path / name).is_file()

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, as far as they exist, and the folders that they leave empty."""
        for name in names:
            with contextlib.suppress(OSError):  # a folder that holds something else stays
                (self.path / name).unlink(missing_ok=True)
                for folder in list(PurePosixPath(name).parents)[:-1]:
                    (self.path / folder).rmdir()

    def publish(self, names: Sequence[str]) -> None:
        """Take over files that have been written below `path`. Raises `OSError`."""


class RemoteFolder(OutputFolder):
    """A folder on an object store.

    Files are written to a temporary folder, uploaded, and deleted there. The records of earlier
    predictions are downloaded at the start.

    Args:
        root: the folder.
        staging: the temporary folder.
    """

    workers = 16  # they wait for the store

    def __init__(self, root: RemoteRoot, staging: Path) -> None:
        super().__init__(staging)
        self._root = root
        self._names = set(root.names())
        for name in self._names:
            if name == FILE_NAME or name.startswith(f"{SHARDS}/"):
                root.download(name, staging / name)
                root.copy_time(name, staging / name)

    def __str__(self) -> str:
        return self._root.url

    def is_empty(self) -> bool:
        return not self._names

    def has(self, name: str) -> bool:
        return name in self._names

    def delete(self, names: Iterable[str]) -> None:
        names = list(names)
        super().delete(names)
        for name in self._names.intersection(names):
            with contextlib.suppress(OSError):
                self._root.delete(name)
        self._names.difference_update(names)

    def publish(self, names: Sequence[str]) -> None:
        for name in names:
            self._root.upload(self.path / name, name)
            self._names.add(name)
            if not (name == FILE_NAME or name.startswith(f"{SHARDS}/")):
                (self.path / name).unlink()


@contextlib.contextmanager
def opened_output(out: str | Path) -> Iterator[OutputFolder]:
    """Open a folder, or the URL of one, for the block.

    Raises:
        InputError: a package for the URL's protocol is missing, or the folder cannot be listed.
    """
    if not is_remote(out):
        yield OutputFolder(Path(out))
        return
    root = RemoteRoot.writable(str(out))
    with tempfile.TemporaryDirectory(prefix="picie-", ignore_cleanup_errors=True) as staging:
        yield RemoteFolder(root, Path(staging))
