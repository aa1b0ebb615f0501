"""Where results go: a run's folder, which must be new and is taken back if no run comes of it, and files."""

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
    """Raise `InputError` unless `out` is missing or an empty folder; `otherwise` is what else the caller may do."""
    if out.exists() and (not out.is_dir() or not is_empty(out)):
        raise InputError(f"--out {out}: exists already; give another folder{otherwise}")


def is_empty(folder: Path) -> bool:
    """Whether a folder contains nothing but temporary files of a process that was killed."""
    return all(is_partial(path) for path in folder.iterdir())


def check_file(option: str, file: Path | None) -> None:
    """Raise `InputError` unless `file`, given as `option`, can be a file in a folder that is there; None is no file."""
    if file is not None and file.is_dir():
        raise InputError(f"{option} {file}: is a folder; give a file in it")
    if file is not None and not file.absolute().parent.is_dir():
        raise InputError(f"{option} {file}: no such folder; make it first")


def write_json(file: Path | None, content: Mapping[str, Any]) -> None:
    """Write `content` to `file`, if there is one."""
    if file is not None:
        write_text(file, json.dumps(content, indent=2) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file in one step."""
    write_atomically(file, lambda opened: opened.write(text.encode()))


def missing(out: Path) -> list[Path]:
    """The folders that making `out` makes, `out` first."""
    return [path for path in (out, *out.parents) if not path.exists()]


def clear(out: Path, made: Sequence[Path]) -> None:
    """Take back the content of `out`, which was empty, and the folders `made` for it."""
    for path in out.iterdir():
        path.unlink()
    if made:
        shutil.rmtree(out)
    with contextlib.suppress(OSError):  # a parent that holds something else by now stays
        for parent in made[1:]:
            parent.rmdir()


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Make `out`, missing or empty, for the block to fill with files; if the block fails, nothing of it is left."""
    made = missing(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        clear(out, made)
        raise
