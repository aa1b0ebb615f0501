"""Read the folder that `picie predict` writes: label maps, names, colours and where the photos are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from picie.data.images import open_label
from picie.errors import InputError
from picie.inference.output_folder import FILE_NAME
from picie.inference.prediction_record import read_record
from picie.inference.segments import Segments
from picie.runtime import checkpoint

_OUTDATED = "was predicted before the run's segments changed; repeat `picie predict`"


@dataclass(frozen=True)
class PredictedImage:
    """One image of a folder of predictions.

    Attributes:
        name: the unique name of its outputs: a relative path with "/", without suffix.
        photo: the path of the photo, relative to `PredictionFolder.root`, with "/"; for a frame of
            a file with several, followed by # and its number.
        source: the absolute path of the photo. It need not exist any more.
        labels: the path of the label map.
        outdated: whether the label map has the values of earlier segments.
    """

    name: str
    photo: str
    source: Path
    labels: Path
    outdated: bool = False

    def read(self) -> np.ndarray:
        """Read the label map.

        Returns:
            (H, W) integers of the size of the upright photo: the index of a segment, or a value
            without a segment (255, or the largest value of the type) for ignored pixels.

        Raises:
            InputError: the file is missing, damaged or outdated.
        """
        return open_label(self.current_labels())

    def current_labels(self) -> Path:
        """Return `labels`. Raises `InputError` if it is outdated."""
        if self.outdated:
            raise InputError(f"{self.labels}: {_OUTDATED}")
        return self.labels


@dataclass(frozen=True)
class PredictionFolder:
    """The predictions in a folder.

    Attributes:
        folder: the folder.
        names: the name of each value.
        colors: the "#rrggbb" of each value.
        root: the folder of all photos: the one that was given to `picie predict`, if it was one.
        images: the images, sorted by name.
        run: the folder of the run that predicted them. It need not exist any more.
    """

    folder: Path
    names: tuple[str, ...]
    colors: tuple[str, ...]
    root: Path
    images: tuple[PredictedImage, ...]
    run: Path

    def new_names(self) -> dict[str, str]:
        """The segments whose names in the run have changed since: old and new name.

        It is empty if the run cannot be read, or has other segments now.
        """
        try:
            state = checkpoint.load(self.run)
            now = Segments.in_use(state, len(checkpoint.classifier_in_use(state)[0])).names
        except InputError:
            return {}
        same = len(now) == len(self.names)
        return {old: new for old, new in zip(self.names, now, strict=True) if old != new} if same else {}


def open_predictions(folder: str | Path) -> PredictionFolder:
    """Open a folder of predictions. No label map is read.

    Raises:
        InputError: there is no such folder, or its record is missing, damaged or empty.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the --out folder of `picie predict`")
    if not (folder / FILE_NAME).is_file():
        raise InputError(f"{folder}: has no {FILE_NAME}; give the --out folder of `picie predict`")
    record = read_record(folder / FILE_NAME)
    if not record.images:
        raise InputError(f"{folder / FILE_NAME}: lists no prediction; repeat `picie predict`")
    if len(record.names) != len(record.colors):
        raise InputError(f"{folder / FILE_NAME}: is damaged, it has {len(record.names)} names and {len(record.colors)} colors")
    stems = {path: p.stem for path, p in record.images.items()}
    root = _root({path: PurePath(stem).parent for path, stem in stems.items()})
    images = [
        PredictedImage(name, _photo(path, root, number, len(p.frames)), Path(path), folder / labels, p.size == 0)
        for path, p in record.images.items()
        for number, (name, labels) in enumerate(p.maps(), 1)
    ]
    images.sort(key=lambda image: image.name)
    return PredictionFolder(folder, tuple(record.names), tuple(record.colors), root, tuple(images), Path(record.run))


def _photo(path: str, root: Path, number: int, n_frames: int) -> str:
    """The photo's path relative to `root`; a frame has its number after it, e.g. clip.mp4#12."""
    photo = os.path.relpath(path, root).replace(os.sep, "/")
    return f"{photo}#{number}" if n_frames else photo


def _root(parents: dict[str, PurePath]) -> Path:
    """The folder of the photos, from the relative folder in which each photo's outputs are."""
    given = {Path(path).parents[len(parent.parts)] for path, parent in parents.items() if _ends_with(Path(path).parent, parent)}
    if len(given) == 1 and all(_ends_with(Path(path).parent, parent) for path, parent in parents.items()):
        return given.pop()
    try:
        return Path(os.path.commonpath([Path(path).parent for path in parents]))
    except ValueError as error:  # several drives
        raise InputError(f"the photos have no folder in common ({error}); predict each drive into its own folder") from error


def _ends_with(folder: Path, end: PurePath) -> bool:
    return folder.parts[len(folder.parts) - len(end.parts) :] == end.parts
