"""The fine-to-coarse table of a COCO-Stuff folder: the file that its users have, read without running what it may hold."""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path
from typing import Any, NoReturn

from picie.data.cocostuff_classes import COARSE, FINE, FINE_TO_COARSE
from picie.errors import InputError

log = logging.getLogger(__name__)

FILE_NAME = "fine_to_coarse_dict.pickle"
_INDICES, _NAMES = "fine_index_to_coarse_index", "fine_name_to_coarse_name"
_MOST_BYTES = 2**20  # the file has 8 kB
_told: set[Path] = set()


def fine_to_coarse(root: Path) -> tuple[int, ...]:
    """The coarse class of each of the 182 fine ids: by the pickle in `root`, or by picie's table where there is none.

    Raises:
        InputError: the file is not the two dictionaries of integers and strings that it should be.
    """
    path = root / FILE_NAME
    if not path.is_file():
        return FINE_TO_COARSE
    content = _read(path)
    indices, names = content[_INDICES], content[_NAMES]
    mapping = tuple(indices[fine] for fine in range(len(FINE)))
    own_names = {name: COARSE[coarse] for name, coarse in zip(FINE, FINE_TO_COARSE, strict=True)}
    differing = {name for name, own, coarse in zip(FINE, FINE_TO_COARSE, mapping, strict=True) if own != coarse}
    differing |= {name for name in own_names.keys() | names.keys() if own_names.get(name) != names.get(name)}
    if differing and path not in _told:
        _told.add(path)
        first = min(differing)
        log.warning("%s: %d names differ from picie's table, e.g. %r; the file's indices count", path, len(differing), first)
    return mapping


class _PlainUnpickler(pickle.Unpickler):
    """Makes dictionaries, strings and numbers, and looks up nothing by name: a pickle's only way to run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read(path: Path) -> dict[str, dict[Any, Any]]:
    advice = f"remove it (picie has the table of its own) or replace it by the authors' {FILE_NAME}"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise pickle.UnpicklingError("it is too large")
        content = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a malformed pickle may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as plain dictionaries ({reason}); {advice}") from error
    if not _is_mapping(content):
        raise InputError(
            f"{path}: is not the dictionaries {_INDICES!r} (0..{len(FINE) - 1} to 0..{len(COARSE) - 1}) and {_NAMES!r} "
            f"(strings); {advice}"
        )
    found: dict[str, dict[Any, Any]] = content
    return found


def _is_mapping(content: object) -> bool:
    if type(content) is not dict or set(content) != {_INDICES, _NAMES} or not all(type(v) is dict for v in content.values()):
        return False
    indices, names = content[_INDICES], content[_NAMES]
    numbers = all(type(fine) is int and type(coarse) is int for fine, coarse in indices.items())
    words = all(type(fine) is str and type(coarse) is str for fine, coarse in names.items())
    return numbers and words and set(indices) == set(range(len(FINE))) and set(indices.values()) <= set(range(len(COARSE)))
