"""The prediction of one picture of any kind: in memory, by rows, or frame by frame."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from picie.data.frames import Frames
from picie.data.raster_files import RasterFile
from picie.data.rasters import Decoded, Raster
from picie.inference.frames_output import write_frames
from picie.inference.outputs import Maps, joined
from picie.inference.prediction_files import Extras, PredictionFiles, file_names, shares
from picie.inference.prediction_record import Frame
from picie.inference.refinement import refined_rows
from picie.inference.segmenter import Segmenter
from picie.inference.steadying import SteadyLabels
from picie.inference.tiles import Tiling, map_rows
from picie.runtime.progress import Progress

_BATCH = 8  # images in memory that a GPU computes together
_STEADY = 0.5  # default share of earlier frames in the labels of a video


@dataclass
class PicturePrediction:
    """Predicts pictures and writes their files.

    Attributes:
        segmenter: the network and its segments.
        files: writes the files.
        tiling: how pictures are cut into tiles; None computes them whole.
        extras: which files to write beside the label maps.
        steady: the share of earlier frames in the labels of a video; None is the default.
        refine: whether borders follow the edges of the picture.
        bars: shows the progress of files with several frames.
        check_stop: called often within large files; raises `Stopped` if a signal has arrived.
    """

    segmenter: Segmenter
    files: PredictionFiles
    tiling: Tiling | None
    extras: Extras
    steady: float | None = None
    refine: bool = False
    bars: Progress = field(default_factory=lambda: Progress(enabled=False))
    check_stop: Callable[[], None] = field(default_factory=lambda: lambda: None)

    def write_maps(self, name: str, image: Image.Image, maps: Maps) -> dict[str, Any]:
        """Write an image in memory, which is drawn into. Returns the fields as `write` does."""
        names = file_names(name, image, self.extras)
        counts = self.files.write_picture(Frame(**names, share={}), image, maps)
        return {**names, "share": shares(counts, self.segmenter.names)}

    def write(self, name: str, picture: RasterFile | Frames) -> dict[str, Any]:
        """Predict and write a picture that is not in memory.

        Returns the fields of its `Prediction` that name the files.
        """
        if isinstance(picture, Frames):
            with self.bars.bar(picture.path.name, picture.count) as advance:
                return write_frames(self.files, name, picture, self.extras, self._frame_maps(picture, advance))
        names = file_names(name, picture, self.extras)
        counts = self.files.write_rows(Frame(**names, share={}), picture, self._map_rows(picture))
        return {**names, "share": shares(counts, self.segmenter.names)}

    def _frame_maps(self, frames: Frames, advance: Callable[[int], None]) -> Callable[[Image.Image], Maps]:
        """Return a function that predicts one frame after the other."""
        default = 0.0 if self.tiling is not None or self.refine else _STEADY
        weight = default if self.steady is None else self.steady
        steady = None if frames.rate is None or not weight else SteadyLabels(self.segmenter, weight)

        def maps(image: Image.Image) -> Maps:
            self.check_stop()
            advance(1)
            return self.maps(image) if steady is None else steady.predict(image, self.extras.confidence)

        return maps

    @property
    def batch_size(self) -> int:
        """How many images in memory `maps_of` should get: more than one only helps a GPU."""
        plain = self.tiling is None and not (self.refine or self.extras.confidence)
        return _BATCH if plain and self.segmenter.device.type == "cuda" else 1

    def maps_of(self, images: Sequence[Image.Image]) -> list[Maps | None]:
        """Return the maps of images in memory, which are computed together.

        They are None for a single image, or if the device has no room for all; `maps` computes one.
        """
        if len(images) > 1:
            with contextlib.suppress(MemoryError, torch.OutOfMemoryError):
                return [Maps(labels) for labels in self.segmenter.predict(list(images), len(images))]
        return [None] * len(images)

    def maps(self, image: Image.Image) -> Maps:
        """Return the maps (H, W) of an image in memory."""
        if self.tiling is not None or self.refine:
            return joined([*self._map_rows(Decoded(image))])
        return self.segmenter.predict_with_margin(image) if self.extras.confidence else Maps(self.segmenter.predict(image))

    def _map_rows(self, raster: Raster) -> Iterator[Maps]:
        """Yield maps (n, W), from top to bottom. Raises `Stopped` if a signal arrives."""
        margin = self.extras.confidence
        if self.refine:
            guide = raster.reopened() if isinstance(raster, RasterFile) else raster
            rows = refined_rows(self.segmenter, raster, guide, self.tiling, margin)
        else:
            rows = map_rows(self.segmenter, raster, self.tiling, margin)
        for maps in rows:
            self.check_stop()
            yield maps
