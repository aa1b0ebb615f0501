"""Recognise label maps that lie beside photos, by their names and their content."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from picie.data.formats import open_with_pillow

_LOSSLESS = {".png", ".tif", ".tiff", ".bmp", ".gif"}
_WORDS = ("mask", "label", "annot", "segment", "groundtruth", "semantic", "stuffthing", "trimap", "matte")
_SHORT_WORDS = {"ann", "anns", "gt", "gts", "seg", "segs", "semseg", "truth", "palette", "color"}
_SEPARATORS = "_- ."
_TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MAX_CHECKED = 8  # maximum number of files checked in each group
_MAX_VALUES = 64  # maximum number of distinct values in a label map
_MAX_FLAT_VALUES, _FLAT = 1024, 0.9  # more are allowed if most neighbouring pixels are equal
_MAX_PIXELS = 100_000_000
_SHARE = 0.75  # minimum share of label maps among the checked files of a group


def find_label_maps(images: Sequence[Path], root: Path) -> list[Path]:
    """Find those of `images` that are label maps of other images.

    A group of files is a candidate if its folder or file names suggest it (masks/, ann_dir/,
    p0_mask.png), or if its files have the names of other images. A candidate is a group of label
    maps if its images have few distinct values. If no photo would remain, the result is empty.
    """
    groups: defaultdict[tuple[Path, bool], list[Path]] = defaultdict(list)
    stems: defaultdict[str, int] = defaultdict(int)
    for path in images:
        stems[path.stem.lower()] += 1
    names = _Stems(stems)
    for path in images:
        if path.suffix.lower() in _LOSSLESS:
            named = _is_named(path, root, names) or _base(path.stem) in stems
            if named or stems[path.stem.lower()] > 1:
                groups[path.parent, named].append(path)
    label_maps = [path for group in groups.values() if _are_label_maps(group) for path in group]
    return sorted(label_maps) if len(label_maps) < len(images) else []


def _is_named(path: Path, root: Path, names: _Stems) -> bool:
    """Whether the name of the file or of one of its folders suggests a label map.

    A short word in the name of the file, e.g. color, suggests one only beside an image whose name
    is the rest: color.png may be a photo, p0_color.png beside p0.jpg is none.
    """
    folders = [token.lower() for part in path.relative_to(root).parent.parts for token in _TOKEN.findall(part)]
    tokens = [(token[0].lower(), token.start(), token.end()) for token in _TOKEN.finditer(path.stem)]
    if any(_is_label_word(word) for word in (*folders, *(word for word, _, _ in tokens))) or _SHORT_WORDS & {*folders}:
        return True
    stem = path.stem.lower()
    short = [(start, end) for word, start, end in tokens if word in _SHORT_WORDS]
    if not short:
        return False
    before, after = stem[: short[0][0]].rstrip(_SEPARATORS), stem[short[-1][1] :].lstrip(_SEPARATORS)
    return names.has_other(stem, before, after)


class _Stems:
    """The names of images without suffix, in lower case, to look up by their beginnings and ends."""

    def __init__(self, stems: Collection[str]) -> None:
        self._forward, self._backward = sorted(stems), sorted(stem[::-1] for stem in stems)

    def has_other(self, stem: str, beginning: str, end: str) -> bool:
        """Whether another name than `stem` has this beginning or this end; an empty one does not count."""
        return _has_other(self._forward, beginning, stem) or _has_other(self._backward, end[::-1], stem[::-1])


def _has_other(names: Sequence[str], beginning: str, but: str) -> bool:
    first = bisect_left(names, beginning)
    return bool(beginning) and any(name != but and name.startswith(beginning) for name in names[first : first + 2])


def _is_label_word(word: str) -> bool:
    return word.startswith(_WORDS) or word.endswith("annot")


def _base(stem: str) -> str:
    """The stem without _L, CamVid's suffix of label maps."""
    return stem[:-2].lower() if stem.endswith(("_L", "_P")) else ""


def _are_label_maps(group: Sequence[Path]) -> bool:
    n = min(_MAX_CHECKED, len(group))
    checked = [group[i * len(group) // n] for i in range(n)]
    return sum(map(_looks_like_label_map, checked)) >= _SHARE * n


def _looks_like_label_map(path: Path) -> bool:
    try:
        with open_with_pillow(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                return False
            stored = np.asarray(image.convert("RGB") if image.mode in {"RGBA", "CMYK"} else image)
    except Exception:
        # a decoder may raise anything for a damaged file, which is reported when it is read
        return False
    values = stored if stored.ndim == 2 else stored.astype(np.int64) @ (256 ** np.arange(stored.shape[2]))
    distinct = len(np.unique(values))
    if distinct <= _MAX_VALUES:
        return True
    return distinct <= _MAX_FLAT_VALUES and float((values[:, 1:] == values[:, :-1]).mean()) >= _FLAT
