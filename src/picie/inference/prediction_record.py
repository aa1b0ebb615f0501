"""predictions.json: the images whose predictions a folder holds, and how they were made."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from picie.errors import InputError
from picie.inference.output_folder import FILE_NAME, OutputFolder
from picie.inference.remote_files import RemoteFile, Source, is_remote
from picie.runtime.atomic_write import write_atomically
from picie.runtime.progress import log
from picie.version import __version__

FRAMES = "_frames"
"""Ending of the folder with the label maps of a file's frames."""
LEGEND = "legend"
"""Name, without suffix, of the picture beside the record that shows the colours."""
OVERLAY = "_overlay"
"""Ending of the names of overlays, before the suffix."""
OWN_BANDS = "bands of the run"
"""Key of the record's scales where no bands were chosen."""
CONFIDENCE = "_confidence"
"""Ending of the names of the files of the margin beside a label map."""
_SAVE_EVERY = 5.0  # seconds; more if the file is so large that writing it takes a twentieth of that


def _inside(name: str) -> str:
    """Check that a file name lies below the record's folder, so that deleting it is safe."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"{name!r} does not lie in the folder")
    return name


_FileName = Annotated[str, AfterValidator(_inside)]


class Frame(BaseModel):
    """One predicted frame of a file with several.

    Attributes:
        labels: the label map's file, relative to the folder.
        overlay: the overlay's file, or None if none was written for the frame.
        confidence: the file of the margin at each pixel, or None.
        share: the share of pixels of each segment that occurs, by name, largest first.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    labels: _FileName
    overlay: _FileName | None
    confidence: _FileName | None = None
    share: dict[str, float]


class Prediction(BaseModel):
    """One predicted image.

    Attributes:
        labels: the label map's file, relative to the folder.
        overlay: the overlay's file, or None if none was written.
        confidence: the file of the margin at each pixel, or None if none was written.
        size: the short side in pixels that the image was computed at, or 0 if the run's segments
            have changed since and the prediction must be made again.
        source: the `signature` of the image file.
        share: the share of pixels of each segment that occurs, by name, largest first.
        frames: the frames of a video, an animation or a TIFF of several pages, in order; empty if
            only one picture was predicted. `labels` is then the first one's, `share` that of all.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    labels: _FileName
    overlay: _FileName | None
    confidence: _FileName | None = None
    size: int
    how: str = ""
    source: Annotated[list[int], Field(min_length=2, max_length=2)]
    share: dict[str, float]
    frames: list[Frame] = []

    @property
    def stem(self) -> str:
        """The output name: the label map's file without its suffix."""
        if self.frames:
            return str(PurePosixPath(self.labels).parent).removesuffix(FRAMES)
        return str(PurePosixPath(self.labels).with_suffix(""))

    def maps(self) -> list[tuple[str, str]]:
        """The output name and the file of each label map: one, or one for each frame."""
        if not self.frames:
            return [(self.stem, self.labels)]
        return [(str(PurePosixPath(frame.labels).with_suffix("")), frame.labels) for frame in self.frames]

    def files(self) -> list[str]:
        """The files of the prediction, relative to the folder."""
        pictures: list[Prediction | Frame] = [self, *self.frames]
        names = [name for picture in pictures for name in (picture.labels, picture.overlay, picture.confidence)]
        return list(dict.fromkeys(name for name in names if name is not None))


class MadeBy(BaseModel):
    """The network and segments behind predictions; equal values predict equal label maps.

    Attributes:
        model: a fingerprint of the network.
        classifier: a fingerprint of the classifier in use, which gives each cell its cluster.
        names: the name of each value.
        colors: the "#rrggbb" of each value.
        assignment: the value of each cluster.
    """

    model_config = ConfigDict(strict=True)

    model: str
    classifier: str
    names: list[str]
    colors: list[str]
    assignment: list[int]

    def made_by(self) -> MadeBy:
        """Return these values alone."""
        return MadeBy(**{name: getattr(self, name) for name in MadeBy.model_fields})


class Content(MadeBy):
    """The content of the file.

    Attributes:
        picie: the version of picie.
        run: the run's folder.
        images: the predictions, by the absolute path of the image.
        skipped: the reason for each image without a prediction.
        scale: the range of stored values that becomes 0 to 255, for each type, by the bands that
            were chosen, "bands 3,2,1", or `OWN_BANDS`.
    """

    picie: str
    run: str
    images: dict[str, Prediction]
    skipped: dict[str, str]
    scale: dict[str, dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]]


C = TypeVar("C", bound=Content)


class Record:
    """The record of a folder; written at the start, every few seconds, and by `save`.

    Args:
        out: the folder of the predictions.
        run: the run's folder, for information.
        made_by: the network and segments that make the predictions.

    Attributes:
        folder: where the files are written.
        images: the predictions in the folder, by the absolute path of the image.
        skipped: the reason for each image without a prediction, by its absolute path.
        complete: whether every image of the call has been predicted or skipped.
        is_shared: whether other processes write to the folder, too.
        earlier: the network and segments of predictions already in the folder, or None.
        scales: the range of stored values that becomes 0 to 255, for each type of more than 8 bits;
            for each choice of bands, as in `Content`.

    Raises:
        InputError: the file is damaged.
    """

    is_shared = False

    def __init__(self, out: OutputFolder, run: str, made_by: MadeBy) -> None:
        self.out, self.folder, self.run, self.made_by = out, out.path, run, made_by
        self.images: dict[str, Prediction] = {}
        self.complete = False
        self.skipped: dict[str, str] = {}
        self.earlier: MadeBy | None = None
        self.scales: dict[str, dict[str, tuple[float, float]]] = {}
        self._due = 0.0
        if (self.folder / FILE_NAME).is_file():
            content = read_record(self.folder / FILE_NAME)
            self.images, self.earlier = content.images, content
            for bands, scale in content.scale.items():
                self.scales[bands] = {kind: (low, high) for kind, (low, high) in scale.items()}

    def check_model(self, earlier: MadeBy) -> None:
        """Raise `InputError` if predictions in the folder were made by another run."""
        if earlier.model != self.made_by.model:
            replaced = "delete this one" if self.is_shared else "--overwrite to replace them"
            raise InputError(
                f"--out {self.out}: holds predictions of another run, or from before further training; give another "
                f"folder, or {replaced}"
            )

    def check_earlier(self) -> None:
        """Mark the earlier predictions as outdated if the run's segments have changed.

        Raises `InputError` if they were made by another run.
        """
        if self.earlier is None:
            return
        self.check_model(self.earlier)
        if self.earlier.made_by() != self.made_by:
            self.mark_outdated()
            log.info("the run's segments have changed: %d earlier predictions are made again", len(self.images))

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / FILE_NAME

    def is_current(self, source: Source, prediction: Prediction, made: tuple[int | None, str], wanted: Collection[str]) -> bool:
        """Whether a prediction of the file `source` is up to date.

        `made` is the size and the options that are wanted, as in `Prediction`; a size of None is
        the image's own. `wanted` names the files that it needs, of "overlay" and "confidence".
        """
        size, how = made
        try:
            unchanged = prediction.source == signature(source)
        except OSError:
            unchanged = False
        return (
            unchanged
            and prediction.how == how
            and (prediction.size == size or (size is None and prediction.size > 0))
            and all(getattr(prediction, kind) is not None for kind in wanted)
            and all(map(self.out.has, prediction.files()))
        )

    def outdated(self) -> dict[Source, PurePath]:
        """Return the images on this machine to predict again, as absolute path -> label map."""
        return {Path(path): Path(p.labels) for path, p in self.images.items() if p.size == 0 and not is_remote(path)}

    def mark_outdated(self) -> None:
        """Mark all predictions as `outdated`, and drop those whose images no longer exist."""
        existing = {path: p for path, p in self.images.items() if is_remote(path) or Path(path).is_file()}
        for path in sorted(set(self.images) - set(existing)):
            log.warning("%s: no longer there; its prediction in %s keeps the old segments", path, self.out)
        self.images = {path: p.model_copy(update={"size": 0}) for path, p in existing.items()}

    def clear(self) -> None:
        """Delete all predictions of the folder, and nothing else."""
        for prediction in self.images.values():
            self.out.delete(prediction.files())
        self.images, self.scales, self.earlier = {}, {}, None

    def content(self) -> dict[str, Any]:
        """Return what the file holds; images are sorted by their paths."""
        content: dict[str, Any] = {"picie": __version__, "run": self.run, **self.made_by.model_dump()}
        content["images"] = {path: prediction.model_dump() for path, prediction in sorted(self.images.items())}
        content["skipped"] = dict(sorted(self.skipped.items()))
        content["scale"] = {bands: {kind: list(b) for kind, b in scale.items()} for bands, scale in sorted(self.scales.items())}
        return content

    def save(self) -> None:
        """Write the file. Raises `OSError`."""
        start = time.monotonic()
        text = json.dumps(self.content(), indent=2) + "\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, lambda file: file.write(text.encode()))
        self.out.publish([self.file.relative_to(self.folder).as_posix()])
        now = time.monotonic()
        self._due = now + max(_SAVE_EVERY, 20 * (now - start))

    def save_if_due(self) -> None:
        """Write the file if it was last written more than a few seconds ago. Raises `OSError`."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _SAVE_EVERY  # also if it fails
            self.save()


def is_label_map(path: Path, folder: Path) -> bool:
    """Whether a PNG below `folder` is not one of the pictures that predict writes beside label maps."""
    if not (folder / FILE_NAME).is_file():
        return True
    endings = [ending for ending in (OVERLAY, CONFIDENCE) if path.stem.endswith(ending)]
    is_beside = any(path.with_name(f"{path.stem.removesuffix(ending)}.png").is_file() for ending in endings)
    return not is_beside and path != folder / f"{LEGEND}.png"


def read_record(file: Path) -> Content:
    """Read and check a predictions.json. Raises `InputError` if it is damaged."""
    return read_content(file, Content)


def read_content(file: Path, kind: type[C]) -> C:
    """Read and check a record of a `kind`. Raises `InputError` if it is damaged."""
    try:
        return kind.model_validate(json.loads(file.read_bytes()))
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        reason = _first_problem(error) if isinstance(error, ValidationError) else "not valid JSON"
        raise InputError(
            f"{file}: is damaged, or was not written by this version of picie ({reason}); give another --out, or remove it "
            "and the predictions beside it"
        ) from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'content'}: {problem['msg']}"


def signature(source: Source) -> list[int]:
    """Return a file's size in bytes and its modification time in ns. Raises `OSError`.

    In place of the time, a file on an object store has a number that changes with its content.
    """
    if isinstance(source, RemoteFile):
        return list(source.signature)
    status = source.stat()
    return [status.st_size, status.st_mtime_ns]
