"""The fine-to-coarse table of a COCO-Stuff folder: a pickle, read without running code in it."""

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
_MAX_BYTES = 2**20  # the published file has 8 kB
_warned: set[Path] = set()


def fine_to_coarse(root: Path) -> tuple[int, ...]:
    """The coarse class of each of the 182 fine ids, by the pickle in `root` or the built-in table.

    Raises:
        InputError: the file does not contain the expected dictionaries of integers and strings.
    """
    path = root / FILE_NAME
    if not path.is_file():
        return FINE_TO_COARSE
    content = _read(path)
    indices, names = content[_INDICES], content[_NAMES]
    mapping = tuple(indices[fine] for fine in range(len(FINE)))
    builtin_names = {name: COARSE[coarse] for name, coarse in zip(FINE, FINE_TO_COARSE, strict=True)}
    differing = {name for name, builtin, coarse in zip(FINE, FINE_TO_COARSE, mapping, strict=True) if builtin != coarse}
    differing |= {name for name in builtin_names.keys() | names.keys() if builtin_names.get(name) != names.get(name)}
    if differing and path not in _warned:
        _warned.add(path)
        first = min(differing)
        log.warning("%s: %d names differ from picie's table, e.g. %r; the file's indices are used", path, len(differing), first)
    return mapping


class _PlainUnpickler(pickle.Unpickler):
    """Refuses lookups by name, the only way a pickle can run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _read(path: Path) -> dict[str, dict[Any, Any]]:
    advice = f"remove it (picie has a built-in table) or replace it by the authors' {FILE_NAME}"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise pickle.UnpicklingError("it is too large")
        content = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a malformed pickle may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as plain dictionaries ({reason}); {advice}") from error
    if not _is_mapping(content):
        raise InputError(
            f"{path}: does not contain the dictionaries {_INDICES!r} (0..{len(FINE) - 1} to 0..{len(COARSE) - 1}) "
            f"and {_NAMES!r} (strings); {advice}"
        )
    dictionaries: dict[str, dict[Any, Any]] = content
    return dictionaries


def _is_mapping(content: object) -> bool:
    if type(content) is not dict or set(content) != {_INDICES, _NAMES} or not all(type(v) is dict for v in content.values()):
        return False
    indices, names = content[_INDICES], content[_NAMES]
    numbers = all(type(fine) is int and type(coarse) is int for fine, coarse in indices.items())
    words = all(type(fine) is str and type(coarse) is str for fine, coarse in names.items())
    return numbers and words and set(indices) == set(range(len(FINE))) and set(indices.values()) <= set(range(len(COARSE)))
