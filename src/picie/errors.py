"""The errors that picie raises on purpose.

The command line prints each as one line on stderr. The exit status is 2 for `InputError` (the
input is wrong and nothing was done), 1 for `TrainingError` and `DownloadError` (the run or the
network failed), and 128 + signal for `Stopped`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PicieError(Exception):
    """Base class of the errors that picie raises on purpose.

    The text is one line that says what is wrong, where, and what to do.
    """


class InputError(PicieError):
    """The input (a path, a name, an option, a file's content) cannot be used."""


class UnreadableImageError(InputError):
    """One image cannot be decoded; the data pipeline may skip it (`data.on_bad_image`)."""


class TrainingError(PicieError):
    """A run cannot continue, e.g. because the loss is not finite."""


class LostError(TrainingError):
    """Another process of the run died, or cannot be reached."""


class DownloadError(PicieError):
    """A file cannot be downloaded, is not the expected one, or cannot be unpacked.

    Files that are already complete stay on disk.
    """


class Stopped(PicieError):
    """SIGINT or SIGTERM arrived; the step was finished and the run saved.

    Attributes:
        signum: the signal's number; the command line exits with 128 + signum.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint for an unknown name: the closest valid name, or all valid names.

    >>> nearest("brihgtness", ["brightness", "blur"])
    "did you mean 'brightness'? (valid: blur, brightness)"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    listing = ", ".join(names) if len(names) <= 40 else "see `picie list`"
    if close:
        match = next(n for n in names if n.lower() == close[0])
        return f"did you mean '{match}'? (valid: {listing})" if len(names) <= 12 else f"did you mean '{match}'?"
    return f"valid: {listing}"


def none_can(n: int, what: str, verb: str, first: object) -> str:
    """Return the message for `n` things of which none can be used.

    >>> none_can(1, "image", "be read", "a.jpg: is empty")
    'no image can be read: a.jpg: is empty'
    >>> none_can(3, "image", "be read", "a.jpg: is empty")
    'none of the 3 images can be read; the first: a.jpg: is empty'
    """
    return f"no {what} can {verb}: {first}" if n == 1 else f"none of the {n:,} {what}s can {verb}; the first: {first}"


def validation_message(error: ValidationError) -> str:
    """Return one line about the first invalid value in pydantic's report.

    It states where the value is and what is wrong with it.
    """
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should be", "must be")
    where = ".".join(str(part) for part in first["loc"])
    if not where:
        return message
    shown = "" if first["type"] == "missing" else _shown(first["input"])
    return f"{where}{shown}: {message[0].lower() + message[1:]}"


def _shown(value: object) -> str:
    """Format a value for a message; empty if it is long, because a file may hold anything."""
    if not isinstance(value, str | int | float | list | tuple | dict | None):
        return ""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        return ""
    return f" = {text}" if len(text) <= 200 else ""
