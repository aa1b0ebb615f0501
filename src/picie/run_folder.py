"""A run's folder before it is one: it must be new, and what never became a run is taken back."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from picie.errors import InputError


def check_new(out: Path, otherwise: str = "") -> None:
    """Raise `InputError` unless `out` is missing or an empty folder; `otherwise` is what else the caller may do."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists already; give another folder{otherwise}")


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
