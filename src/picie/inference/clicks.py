"""Clicks: pixels of pictures with the name of what they show, and the file that holds them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picie.errors import InputError
from picie.inference.segments import check_name

_FORM = '{"photos/a.jpg": [[x, y, "road"], ...]}'


@dataclass(frozen=True)
class Click:
    """A pixel and what it shows.

    Attributes:
        image: the picture.
        x: column in the upright picture, from 0.
        y: row in the upright picture, from 0.
        name: the name of the class.
    """

    image: Path
    x: int
    y: int
    name: str


def read_clicks(file: str | Path) -> list[Click]:
    """Read a file of clicks: JSON of the form {"photos/a.jpg": [[x, y, "road"], ...]}.

    Paths of pictures are relative to the file.

    Raises:
        InputError: the file cannot be read, has another form, or names a picture that does not
            exist.
    """
    file = Path(file)
    clicks: list[Click] = []
    for name, entries in _content(file).items():
        image = file.parent / name
        if not image.is_file():
            raise InputError(f"{file}: {name!r}: no such picture; paths are relative to the folder of {file.name}")
        if not isinstance(entries, list):
            raise InputError(f"{file}: {name!r}: is not a list of clicks; write {_FORM}")
        clicks += [_click(file, name, image, entry) for entry in entries]
    if not clicks:
        raise InputError(f"{file}: holds no clicks; write {_FORM}")
    return clicks


def check_clicks(clicks: Sequence[Click]) -> None:
    """Raise `InputError` for a pixel with two names, or for fewer than two names."""
    names: dict[tuple[Path, int, int], str] = {}
    for click in clicks:
        earlier = names.setdefault((click.image.absolute(), click.x, click.y), click.name)
        if earlier != click.name:
            raise InputError(
                f"{click.image}: pixel ({click.x}, {click.y}) is named {earlier!r} and {click.name!r}; remove one of the two"
            )
    check_names(click.name for click in clicks)


def check_names(names: Iterable[str]) -> Counter[str]:
    """Return the number of clicks of each name, without surrounding spaces, in their order.

    Raises `InputError` if there are fewer than two names, or one is not valid.
    """
    counts = Counter(check_name(name) for name in names)
    if len(counts) < 2:
        only = f"all clicks are named {next(iter(counts))!r}" if counts else "there are no clicks"
        raise InputError(f"{only}; click on at least two kinds of things, e.g. also on what is around it")
    return counts


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give a file of clicks") from error
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not valid JSON"
        raise InputError(f"{file}: is not a JSON file ({where}); write {_FORM}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: is not a file of clicks; write {_FORM}")
    return content


def _click(file: Path, name: str, image: Path, entry: Any) -> Click:
    form = isinstance(entry, list) and len(entry) == 3 and [type(part) for part in entry] == [int, int, str]
    if not form:
        shown = json.dumps(entry)
        raise InputError(f'{file}: {name!r}: {shown:.80} is not a click; write [x, y, "road"] with whole numbers x and y')
    try:
        return Click(image, entry[0], entry[1], check_name(entry[2]))
    except InputError as error:
        raise InputError(f"{file}: {name!r}: {error}") from error
