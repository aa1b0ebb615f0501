"""The prediction of one picture of any kind: in memory, by rows, or frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from picie.data.frames import Frames
from picie.data.raster_files import RasterFile
from picie.data.rasters import Decoded, Raster
from picie.inference.frames_output import write_frames
from picie.inference.prediction_files import PredictionFiles, file_names, shares
from picie.inference.prediction_record import Frame
from picie.inference.prediction_sources import Picture
from picie.inference.segmenter import Segmenter
from picie.inference.steadying import SteadyLabels
from picie.inference.tiles import Tiling, label_rows
from picie.runtime.progress import Progress

_STEADY = 0.5  # default share of earlier frames in the labels of a video


@dataclass
class PicturePrediction:
    """Predicts pictures and writes their files.

    Attributes:
        segmenter: the network and its segments.
        files: writes the files.
        tiling: how pictures are cut into tiles; None computes them whole.
        overlay: whether to write overlays.
        steady: the share of earlier frames in the labels of a video; None is the default.
        bars: shows the progress of files with several frames.
        check_stop: called often within large files; raises `Stopped` if a signal has arrived.
    """

    segmenter: Segmenter
    files: PredictionFiles
    tiling: Tiling | None
    overlay: bool
    steady: float | None = None
    bars: Progress = field(default_factory=lambda: Progress(enabled=False))
    check_stop: Callable[[], None] = lambda: None

    def write(self, name: str, picture: Picture) -> dict[str, Any]:
        """Predict and write a picture. Returns the fields of its `Prediction` that name the files.

        If it fails, files that it has written are deleted.
        """
        if isinstance(picture, Frames):
            with self.bars.bar(picture.path.name, picture.count) as advance:
                return write_frames(self.files, name, picture, self.overlay, self._frame_labels(picture, advance))
        names = file_names(name, picture, self.overlay)
        wanted = Frame(**names, share={})
        with self.files.deleted_on_error(names.values()):
            if isinstance(picture, RasterFile):
                counts = self.files.write_rows(wanted, picture, self._label_rows(picture))
            else:
                counts = self.files.write_picture(wanted, picture, self._labels(picture))
        return {**names, "share": shares(counts, self.segmenter.names)}

    def _frame_labels(self, frames: Frames, advance: Callable[[int], None]) -> Callable[[Image.Image], np.ndarray]:
        """Return a function that predicts one frame after the other."""
        default = 0.0 if self.tiling is not None else _STEADY
        weight = default if self.steady is None else self.steady
        predict = self._labels if frames.rate is None or not weight else SteadyLabels(self.segmenter, weight).predict

        def labels(image: Image.Image) -> np.ndarray:
            self.check_stop()
            advance(1)
            return predict(image)

        return labels

    def _labels(self, image: Image.Image) -> np.ndarray:
        """Return the label map (H, W) of an image in memory."""
        if self.tiling is None:
            return self.segmenter.predict(image)
        return np.concatenate([*self._label_rows(Decoded(image))])

    def _label_rows(self, raster: Raster) -> Iterator[np.ndarray]:
        """Yield labels (n, W), from top to bottom. Raises `Stopped` if a signal arrives."""
        for labels in label_rows(self.segmenter, raster, self.tiling):
            self.check_stop()
            yield labels
