"""The options of `picie predict`, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from picie.inference.sharding import Shard


@dataclass(frozen=True)
class PredictOptions:
    """Options of `predict_files`.

    Attributes:
        size: the short side in pixels that images are computed at; None uses the run's
            `Config.predict_size`, or with tiles each image's own.
        tile: the side in pixels of the tiles that images are computed in; None computes them whole.
        overlap: pixels that neighbouring tiles share; None is a quarter of `tile`, or the
            network's coarsest stride if that is more.
        bands: the bands of TIFFs, from 1, to use; empty uses those of the run.
        frames: "all" predicts every frame of animations and every page of TIFFs, "first" the first;
            of videos all are predicted.
        steady: the share of earlier frames in the labels of a video, in [0, 1); 0 predicts each
            frame on its own. None is 0.5, or 0 with tiles or `refine`.
        refine: whether borders follow the edges of the picture.
        overlay: whether to write overlays.
        confidence: whether to write the margin at each pixel.
        labels: whether overlays show the names of large regions.
        overwrite: delete the earlier predictions in the folder, and predict everything again.
        progress: whether to show a progress bar.
        max_pixels: images with more pixels are not read; None uses the run's `data.max_pixels`.
        include: patterns of the images in folders to use; empty uses all.
        exclude: patterns of the images in folders to leave out.
        root: a folder above all single files; their outputs keep the folders below it. None gives
            them no folders.
        shard: predict one part of the files, beside other processes; None predicts all.
    """

    size: int | None = None
    tile: int | None = None
    overlap: int | None = None
    bands: Sequence[int] = ()
    frames: Literal["first", "all"] = "first"
    steady: float | None = None
    refine: bool = False
    overlay: bool = True
    confidence: bool = False
    labels: bool = False
    overwrite: bool = False
    progress: bool = True
    max_pixels: int | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    root: Path | None = None
    shard: Shard | None = None


@dataclass
class Summary:
    """The result of `predict_files`.

    Attributes:
        predicted: the number of images predicted.
        present: the number of images that had been predicted earlier.
        skipped: the reason for each image that could not be predicted, by its absolute path.
    """

    predicted: int = 0
    present: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
