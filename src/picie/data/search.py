"""Find the photos below a folder, and count what is left out."""

from __future__ import annotations

import fnmatch
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from picie.data.formats import HEIF_SUFFIXES, IMAGE_SUFFIXES
from picie.data.label_maps import find_label_maps
from picie.errors import InputError

log = logging.getLogger(__name__)

# a folder with one of these contains picie's output, not input
_OUTPUTS = ("run.json", "predictions.json", "predictions.shards")
_SYSTEM_FOLDERS = {"@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information"}
_MAX_ENDINGS = 4
_MAX_NAMES = 3
_reported: set[str] = set()


@dataclass
class Search:
    """What was found below a folder.

    Attributes:
        root: the folder.
        images: the image files to use, sorted by path.
        label_maps: image files that are label maps of others; they are not used.
        n_excluded: number of image files left out by patterns.
        others: number of other files by ending, e.g. {".txt": 3}.
        special: named pipes, devices and broken links with the name of an image.
        unreadable: folders that cannot be read, with the reason.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    label_maps: list[Path] = field(default_factory=list)
    n_excluded: int = 0
    others: Counter[str] = field(default_factory=Counter)
    special: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def is_suspicious(self) -> bool:
        """Whether files were left out that the user may want."""
        return bool(self.label_maps or self.special or self.unreadable or HEIF_SUFFIXES & self.others.keys() - IMAGE_SUFFIXES)

    @property
    def left_out(self) -> bool:
        """Whether any file was left out."""
        return bool(self.is_suspicious or self.n_excluded or self.others)

    def summary(self) -> str:
        """One line: what is used and what is left out."""
        parts = [f"{len(self.images):,} images"]
        if self.label_maps:
            n, first = len(self.label_maps), [path.relative_to(self.root).as_posix() for path in self.label_maps[:_MAX_NAMES]]
            listed = f"{'' if n <= _MAX_NAMES else 'e.g. '}{', '.join(first)}"
            looks = "looks like a label map" if n == 1 else "look like label maps"
            parts.append(f"left out {n:,} that {looks}: {listed} (--include uses them)")
        if self.n_excluded:
            parts.append(f"{self.n_excluded:,} excluded by pattern")
        if self.others:
            parts.append(f"{self.others.total():,} other file{'s' * (self.others.total() > 1)}: {_endings(self.others)}")
        if self.special:
            parts.append(f"{len(self.special):,} not regular files, e.g. {self.special[0].name}")
        if self.unreadable:
            parts.append(f"{len(self.unreadable):,} unreadable folders, e.g. {self.unreadable[0]}")
        return f"{self.root}: {'; '.join(parts)}"


def report(search: Search) -> None:
    """Log the summary, if anything was left out; once for each text."""
    summary = search.summary()
    if search.left_out and summary not in _reported:
        _reported.add(summary)
        log.log(logging.WARNING if search.is_suspicious else logging.INFO, "%s", summary)


def find_images(root: Path) -> list[Path]:
    """All image files below `root`, sorted by path, except hidden ones and picie's own output.

    Links to folders are followed; each folder is searched once.
    """
    return _search_files(root).images


def search_photos(root: Path, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Search:
    """Find the photos below `root`; label maps beside them are left out.

    Args:
        root: the folder.
        include: patterns such as *.png or day/*; if there are any, only matching images are used.
        exclude: patterns of images to leave out.

    Raises:
        InputError: patterns were given and leave no image.
    """
    search = _search_files(root)
    found = search.images
    images = [path for path in found if not include or matches(path.relative_to(root), include)]
    images = [path for path in images if not matches(path.relative_to(root), exclude)]
    search.n_excluded = len(found) - len(images)
    if found and not images:
        raise InputError(f"{root}: the patterns of data.include and data.exclude leave none of {len(found):,} images")
    search.label_maps = [] if include else find_label_maps(images, root)
    left_out = set(search.label_maps)
    search.images = [path for path in images if path not in left_out]
    return search


def matches(path: PurePath, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits a file's name, its relative path, or one of its folders."""
    names = [path.name, *(part.as_posix() for part in (path, *path.parents))]
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for pattern in patterns for name in names)


def is_searched(path: PurePath) -> bool:
    """Whether a file, by its relative path, is neither hidden nor in a folder of the system."""
    *folders, name = path.parts
    return not name.startswith(".") and all(_is_searched(folder) for folder in folders)


def _is_searched(folder: str) -> bool:
    return not folder.startswith(".") and folder.lower() not in _SYSTEM_FOLDERS


def is_output(path: PurePath, folder: PurePath) -> bool:
    """Whether a file shows that `folder`, above it and below the root, holds picie's output."""
    return bool(folder.parts) and path.relative_to(folder).parts[0] in _OUTPUTS


def _search_files(root: Path) -> Search:
    search = Search(root)
    for folder, files in _walk(search):
        for name in files:
            if name.startswith("."):
                continue
            path, suffix = folder / name, Path(name).suffix.lower()
            if suffix not in IMAGE_SUFFIXES:
                search.others[suffix or "no ending"] += 1
            elif _is_regular(path):
                search.images.append(path)
            else:
                search.special.append(path)
    search.images.sort()
    return search


def _walk(search: Search) -> Iterator[tuple[Path, list[str]]]:
    """Folders below the root with their files; skips hidden folders, thumbnails and output."""

    def note(error: OSError) -> None:
        search.unreadable.append(f"{error.filename} ({error.strerror})")

    visited = set()
    for name, folders, files in os.walk(search.root, followlinks=True, onerror=note):
        folder, real = Path(name), os.path.realpath(name)
        if real in visited or (
            folder != search.root and any(output in names for names in (files, folders) for output in _OUTPUTS)
        ):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(filter(_is_searched, folders))
        yield folder, files


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _endings(others: Counter[str]) -> str:
    """E.g. "8 .txt, 3 .heic (install picie[heic])"."""
    common = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:_MAX_ENDINGS]
    texts = [f"{n:,} {ending}{' (install picie[heic])' if ending in HEIF_SUFFIXES else ''}" for ending, n in common]
    return ", ".join(texts) + (", ..." if len(others) > _MAX_ENDINGS else "")
