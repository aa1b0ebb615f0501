"""The files of a folder of predictions: label maps, overlays and the legend."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from picie.data.raster_files import RasterFile
from picie.display.colors import Color
from picie.display.overlays import draw_names, draw_overlay, encoded, index_image, legend
from picie.inference.outputs import Maps
from picie.inference.prediction_record import CONFIDENCE, LEGEND, OVERLAY, Frame, Record
from picie.inference.rows_output import RowsOutput
from picie.runtime.atomic_write import clear_partials, write_atomically

_LEGEND_WIDTH = 640
_MAX_JPEG = 65_500  # pixels a side; a longer overlay is a PNG


@dataclass(frozen=True)
class Extras:
    """The files beside a label map.

    Attributes:
        overlay: whether there is an overlay.
        confidence: whether there is the margin at each pixel, a grey image.
    """

    overlay: bool = True
    confidence: bool = False


class _Thread(threading.local):
    """The files of the picture that a thread writes."""

    def __init__(self) -> None:
        self.started: list[str] = []


class PredictionFiles:
    """Writes the files of a folder of predictions, which is made with the first of them.

    Several threads may write, each the files of another picture.

    Args:
        record: the folder's record.
        names: the name of each value.
        colors: the colour of each value.
        write_names: whether overlays show the names of large regions. Those of videos never do.

    Attributes:
        begun: whether the folder and the legend have been written.
    """

    def __init__(self, record: Record, names: Sequence[str], colors: Sequence[Color], write_names: bool = False) -> None:
        self.record, self.names, self.colors, self.write_names = record, tuple(names), tuple(colors), write_names
        self.folder, self.begun = record.folder, False
        self._used: set[Path] = set()  # folders that have no temporary files of killed processes
        self._lock, self._thread = threading.RLock(), _Thread()

    def begin(self) -> None:
        """Write the record and the legend, once there is something to write. Raises `OSError`."""
        with self._lock:
            if self.begun:
                return
            self.path_of(LEGEND)
            self.record.save()
            if not self.record.is_shared:  # of shards it is written when they are joined
                self.write(f"{LEGEND}.png", encoded(legend(self.names, self.colors, _LEGEND_WIDTH), "PNG"))
                self.record.out.publish([f"{LEGEND}.png"])
            self.begun = True

    def write_picture(self, prediction: Frame, image: Image.Image, maps: Maps) -> np.ndarray:
        """Write the maps and the overlay of an image, which is drawn into.

        Returns:
            (V,) the number of pixels of each value.

        Raises:
            OSError: a file cannot be written.
        """
        self.begin()
        self._start(prediction)
        labels = maps.labels
        index = index_image(labels, self.colors)
        self.write(prediction.labels, encoded(index, "PNG"))
        if prediction.confidence is not None and maps.margin is not None:
            self.write(prediction.confidence, encoded(Image.fromarray(maps.margin), "PNG"))
        if prediction.overlay is not None:
            draw_overlay(image, labels, self.colors)
            if self.write_names:
                draw_names(image, labels, self.names)
            self.write(prediction.overlay, encoded(image, "PNG" if prediction.overlay.endswith(".png") else "JPEG"))
        if index.mode == "P":
            return np.array(index.histogram()[: len(self.names)], np.int64)
        counts = np.zeros(len(self.names), np.int64)
        for row in labels:  # by rows, because bincount copies its input as int64
            counts += np.bincount(row, minlength=len(counts))
        return counts

    def write_rows(self, prediction: Frame, raster: RasterFile, parts: Iterator[Maps]) -> np.ndarray:
        """Write the maps and the overlay of a picture that is read by rows.

        Args:
            prediction: names the files.
            raster: the picture.
            parts: the maps (n, W) of some rows, from top to bottom.

        Returns:
            (V,) the number of pixels of each value, without those that have no data.

        Raises:
            OSError: a file cannot be written.
            UnreadableImageError: the picture is damaged.
        """
        self.begin()
        self._start(prediction)
        overlay, margin = (None if name is None else self.path_of(name) for name in (prediction.overlay, prediction.confidence))
        labels = self.path_of(prediction.labels)
        return RowsOutput(labels, overlay, margin, self.names, self.colors, self.write_names).write(raster, parts)

    def write(self, name: str, data: bytes) -> None:
        """Write a file in one step. Raises `OSError`."""
        write_atomically(self.path_of(name), lambda file: file.write(data))

    def path_of(self, name: str) -> Path:
        """Return the path of the file `name`, in a folder that exists. Raises `OSError`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if path.parent not in self._used and not self.record.is_shared:
                clear_partials(path.parent)
                self._used.add(path.parent)
        return path

    @contextlib.contextmanager
    def deleted_on_error(self, image: str) -> Iterator[None]:
        """Delete the files that the block writes for an image if it fails.

        An earlier prediction of the image, an absolute path, stays if none of its files has been
        replaced. Otherwise it is deleted too, with its entry in the record.
        """
        earlier = self.record.images.get(image)
        owned = [] if earlier is None else earlier.files()
        before = self._versions(owned)
        self._thread.started = []
        try:
            yield
        except BaseException:
            self.record.out.delete(sorted(set(self._thread.started) - set(owned)))
            if self._versions(owned) != before:
                self.record.out.delete(owned)
                del self.record.images[image]
            raise

    def _start(self, prediction: Frame) -> None:
        """Note the files that this thread writes, for `deleted_on_error`."""
        names = (prediction.labels, prediction.overlay, prediction.confidence)
        self._thread.started += [name for name in names if name is not None]

    def _versions(self, names: Sequence[str]) -> list[tuple[int, int] | None]:
        """What changes when a file is replaced: its inode and its time; None if there is no file."""
        versions: list[tuple[int, int] | None] = []
        for name in names:
            try:
                status = (self.folder / name).stat()
            except OSError:
                versions.append(None)
            else:
                versions.append((status.st_ino, status.st_mtime_ns))
        return versions


def file_names(name: str, picture: Image.Image | RasterFile, extras: Extras) -> dict[str, Any]:
    """Return the names of a picture's files, as in `Prediction`."""
    by_rows = isinstance(picture, RasterFile)
    suffix = "tif" if isinstance(picture, RasterFile) and picture.georeference.is_known else "png"
    kind = "tif" if by_rows else "jpg" if max(picture.width, picture.height) <= _MAX_JPEG else "png"
    return {
        "labels": f"{name}.{suffix}",
        "overlay": f"{name}{OVERLAY}.{kind}" if extras.overlay else None,
        "confidence": f"{name}{CONFIDENCE}.{suffix}" if extras.confidence else None,
    }


def shares(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return the share of pixels of each value that occurs, largest first.

    `counts` are the number of pixels of each value.
    """
    parts = counts / max(1, counts.sum())
    order = np.argsort(-parts, kind="stable")
    return {names[i]: round(float(parts[i]), 4) for i in order if counts[i] > 0}
