"""Converts the arguments of `picie train` and `picie ablate` to section.key=value strings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Optional

import typer

from picie import registry
from picie.errors import InputError, nearest
from picie.training.keywords import data_settings

Include = Annotated[
    Optional[list[str]], typer.Option(metavar="PATTERN", help="Use only these images of a folder, e.g. '*.jpg'; repeatable.")
]
Exclude = Annotated[
    Optional[list[str]], typer.Option(metavar="PATTERN", help="Leave out these images of a folder, e.g. 'masks/*'; repeatable.")
]


def _trust(value: bool) -> None:
    if value:
        registry.trust_all()


Trust = Annotated[
    bool, typer.Option("--trust", callback=_trust, help="Allow the run or file to name code of your own, which is then run.")
]
"""Option of the commands that open a run or a file of settings; see SECURITY.md."""


def data_options(data: str | None, options: Sequence[str]) -> list[str]:
    """Return DATA as options: data.root for a folder, data.name for a dataset, both for shards.

    Raises:
        InputError: `options` set the same key, or there is no folder or dataset of that name.
    """
    if data is None:
        return []
    settings = data_settings(data)
    for key in settings:
        if any(option.startswith(f"{key}=") for option in options):
            raise InputError(f"{key} is given twice, by DATA {data} and as an option; give it once")
    return [f"{key}={_toml_string(value)}" for key, value in settings.items()]


def _toml_string(text: str) -> str:
    # a JSON string is valid TOML, except for escaped surrogate pairs
    return json.dumps(text, ensure_ascii=False)


@contextmanager
def named_flags(flags: Iterable[tuple[str, str]]) -> Iterator[None]:
    """Name the flag in errors about an option: with ("cluster.k", "-k"), "-k (cluster.k) = 0: ..."."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for key, flag in flags:
            if message.startswith(key) and flag != f"--{key}":
                raise type(error)(f"{flag} ({key}){message.removeprefix(key)}") from error
        raise


def join_options(flags: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Join flags and section.key=value strings. Raises `InputError` if an option has two values."""
    joined = {key: _toml_string(value) if isinstance(value, str) else str(value) for key, value in flags.items()}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            advice = "write section.key=value, e.g. train.lr=1e-4 (put several folders of images into one)"
            if text.endswith(".tar"):
                advice = "put a pattern of tar files in quotes, e.g. 'shards/*.tar'"
            raise InputError(f"{text!r} is not an option; {advice}")
        if joined.get(key, value).strip("\"'") != value.strip("\"'"):
            raise InputError(f"{key} is given twice, as {joined[key]} and as {value}; give it once")
        joined[key] = value
    return [f"{key}={value}" for key, value in joined.items()]


def parse_bands(text: str | None) -> tuple[int, ...]:
    """Return the bands that "3,2,1" or "4" names, or () for None. Raises `InputError`."""
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in {1, 3} or not all(part.isdecimal() and 1 <= int(part) <= 65535 for part in parts):
        raise InputError(f"--bands {text}: give three bands, counted from 1, as red, green and blue, or one, e.g. 3,2,1")
    return tuple(map(int, parts))


def one_of(option: str, value: str, valid: Sequence[str]) -> Any:
    """Return `value`. Raises `InputError` unless it is one of the `valid` ones."""
    if value not in valid:
        raise InputError(f"{option} {value}: {nearest(value, valid)}")
    return value
