"""The images that `picie predict` segments, and the names of their outputs."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

from picie.data.search import report, search_photos
from picie.errors import InputError
from picie.inference.prediction_record import CONFIDENCE, FRAMES, OVERLAY
from picie.inference.remote_files import Source, find_remote, is_remote

_REQUESTS = 16  # to object stores at a time
# If one of these is beside images/, the folder is a dataset, and only images/ holds photos.
_DATASET_MARKERS = ("classes.toml", "annotations", "stuffthingmaps")
# The name of a file's frame, or of a file beside its label map; the group is the name of the file.
_FRAME = re.compile(rf"(.+){FRAMES}/\d{{6,}}(?:{OVERLAY}|{CONFIDENCE})?")


def find_inputs(
    paths: Sequence[Path | str],
    out: Path | None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    root: Path | None = None,
) -> dict[Source, PurePath]:
    """Find the images in `paths`, which are files, folders or their URLs.

    `include` and `exclude` are patterns of images in folders. `out` is the folder of the results,
    or None. `root` is a folder above all given files, if these are to keep their folders below it.

    Returns:
        For each image, by its absolute path or URL, its path relative to the given folder, or of a given
        file to `root`; without `root` it is the file's name.

    Raises:
        InputError: a path does not exist or has no image, or an image lies in the folder `out`
            or not below `root`.
    """
    found: dict[Source, PurePath] = {}
    urls = list(dict.fromkeys(str(path) for path in paths if is_remote(path)))
    with ThreadPoolExecutor(_REQUESTS) as pool:
        remote = dict(zip(urls, pool.map(lambda url: find_remote(url, include, exclude), urls), strict=True))
    for given in paths:
        if is_remote(given):
            found |= remote[str(given)]
            continue
        path = Path(given)
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give images or folders of images")
        if not (path.is_file() or path.is_dir()):  # opening a named pipe would block forever
            raise InputError(f"{path}: is not a regular file; give images or folders of images")
        if path.is_dir():
            dataset = (path / "images").is_dir() and any((path / name).exists() for name in _DATASET_MARKERS)
            folder = path / "images" if dataset else path  # do not segment label maps
            search = search_photos(folder, include, exclude)
            report(search)
            files = search.images
            if not files:
                raise InputError(f"{folder}: has no image file, nor have its subfolders; give another folder")
            found |= {file.absolute(): file.relative_to(folder) for file in files}
        else:
            if root is not None and not path.absolute().is_relative_to(root.absolute()):
                raise InputError(f"{path}: does not lie below {root}; give another root")
            found[path.absolute()] = Path(path.name) if root is None else path.absolute().relative_to(root.absolute())
    local = [file for file in found if isinstance(file, Path)]
    inside = out and next((file for file in local if out.resolve() in file.resolve().parents), None)
    if inside is not None:
        raise InputError(f"--out {out}: holds the image {inside}, which might be overwritten; give another folder")
    return found


def listed_paths(file: Path) -> list[str]:
    """Return the paths and URLs in a file, or for "-" of standard input, one a line.

    Empty lines are left out. If the file has zero bytes, they end the paths instead of line breaks,
    as in the output of `find -print0`.

    Raises:
        InputError: the file cannot be read, or has no path.
    """
    advice = "give a text file with one path a line, or paths separated by NUL"
    try:
        text = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise InputError(f"--from {file}: cannot be read ({reason}); {advice}") from error
    lines = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
    paths = [line if Path(line).exists() else line.strip() for line in lines if line.strip()]
    if not paths:
        raise InputError(f"--from {file}: has no path; {advice}")
    return paths


def output_names(
    files: Mapping[Source, PurePath], earlier: Mapping[str, str], reserved: Collection[str] = ()
) -> dict[str, Source]:
    """Choose an output name for each image.

    Args:
        files: as `find_inputs` returns them.
        earlier: names of the images predicted earlier, by absolute path; these do not change.
        reserved: names that no image may get.

    Returns:
        For each name, relative to the output folder and without suffix, the image.
    """
    stems = Counter(name.with_suffix("").as_posix() for name in files.values())
    taken = _Taken({name: source for source, name in earlier.items()})
    sources: dict[str, Source] = {}
    for file, name in files.items():
        stem = name.with_suffix("").as_posix()
        if str(file) in earlier:
            stem = earlier[str(file)]
        elif stems[stem] > 1:  # photo.jpg beside photo.png: add the suffix to the name
            stem = f"{stem}_{name.suffix[1:].lower()}"
        unique, number = stem, 2
        while unique in reserved or taken.is_taken(unique, str(file)):
            unique, number = f"{stem}_{number}", number + 1
        sources[unique] = file
        taken.add(unique, str(file))
    return sources


class _Taken:
    """The names that images have.

    Args:
        names: the image of each name.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names: dict[str, str] = {}
        self._framed: dict[str, set[str]] = {}  # images whose names are those of frames of another name
        for name, image in names.items():
            self.add(name, image)

    def add(self, name: str, image: str) -> None:
        """Give a name to an image."""
        self._names[name] = image
        if (frame := _FRAME.fullmatch(name)) is not None:
            self._framed.setdefault(frame[1], set()).add(image)

    def is_taken(self, name: str, image: str) -> bool:
        """Whether another image than `image` has files that may be among those of `name`."""
        near = [name]
        for ending in (OVERLAY, CONFIDENCE):
            near += [f"{name}{ending}", name.removesuffix(ending)]
        if (frame := _FRAME.fullmatch(name)) is not None:
            near.append(frame[1])
        return bool(self._framed.get(name, set()) - {image}) or any(self._names.get(one, image) != image for one in near)
