"""Output files, and run folders, which must be new and are removed if a run fails to start."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from picie.errors import InputError
from picie.runtime.atomic_write import is_partial, write_atomically


def check_new(out: Path, otherwise: str = "") -> None:
    """Raise `InputError` unless `out` is missing or an empty folder.

    `otherwise` names an alternative for the user.
    """
    if out.exists() and (not out.is_dir() or not is_empty(out)):
        raise InputError(f"--out {out}: exists already; give another folder{otherwise}")


def is_empty(folder: Path) -> bool:
    """Whether a folder contains nothing but temporary files of a process that was killed."""
    return all(is_partial(path) for path in folder.iterdir())


def check_file(option: str, file: Path | None) -> None:
    """Raise `InputError` unless `file` can be written into an existing folder.

    `file` is the value of `option`; None is valid.
    """
    if file is not None and file.is_dir():
        raise InputError(f"{option} {file}: is a folder; give a file in it")
    if file is not None and not file.absolute().parent.is_dir():
        raise InputError(f"{option} {file}: no such folder; make it first")


def write_json(file: Path | None, content: Mapping[str, Any]) -> None:
    """Write `content` to `file` as JSON, if a file is given."""
    if file is not None:
        write_text(file, json.dumps(content, indent=2) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file in one step."""
    write_atomically(file, lambda opened: opened.write(text.encode()))


def missing(out: Path) -> list[Path]:
    """Return the folders that have to be created for `out`, with `out` first."""
    return [path for path in (out, *out.parents) if not path.exists()]


def clear(out: Path, made: Sequence[Path]) -> None:
    """Remove the content of `out`, which was empty before, and the folders `made` for it."""
    for path in out.iterdir():
        path.unlink()
    if made:
        shutil.rmtree(out)
    with contextlib.suppress(OSError):  # a parent with other content stays
        for parent in made[1:]:
            parent.rmdir()


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Create `out`, missing or empty, for the block to fill with files.

    If the block fails, remove all of it.
    """
    made = missing(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        clear(out, made)
        raise
