"""Label maps and overlays of the frames of a file: TIFFs of several pages, animations, videos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from picie.data.frames import Frames
from picie.display.overlays import draw_overlay
from picie.errors import UnreadableImageError
from picie.inference.outputs import Maps
from picie.inference.prediction_files import Extras, PredictionFiles, file_names, shares
from picie.inference.prediction_record import FRAMES, OVERLAY, Frame
from picie.inference.video_output import overlay_video


def write_frames(
    files: PredictionFiles, name: str, frames: Frames, extras: Extras, predict: Callable[[Image.Image], Maps]
) -> dict[str, Any]:
    """Predict and write the frames of a file.

    Each becomes `name`_frames/000001.png and so on. The overlays of a video are one video,
    `name`_overlay.mp4; those of other files lie beside the label maps.

    Args:
        files: writes the files.
        name: the output name of the file.
        frames: its frames.
        extras: which files to write beside the label maps.
        predict: returns the maps of a frame.

    Returns:
        The fields `labels`, `overlay`, `confidence`, `share` and `frames` of the `Prediction`.

    Raises:
        OSError: a file cannot be written.
        UnreadableImageError: the file is damaged, or has no frame.
    """
    files.begin()
    written: list[Frame] = []
    total = np.zeros(len(files.names), np.int64)
    video_name = f"{name}{OVERLAY}.mp4" if extras.overlay and frames.rate is not None else None
    with contextlib.ExitStack() as stack:
        video = None
        if video_name is not None and frames.rate is not None:
            video = stack.enter_context(overlay_video(files.path_of(video_name), frames.rate))
        for number, image in enumerate(frames, 1):
            maps = predict(image)
            names = file_names(f"{name}{FRAMES}/{number:06}", image, replace(extras, overlay=extras.overlay and video is None))
            counts = files.write_picture(Frame(**names, share={}), image, maps)
            if video is not None:
                draw_overlay(image, maps.labels, files.colors)
                video.add(image)
            written.append(Frame(**names, share=shares(counts, files.names)))
            total += counts
        if not written:
            raise UnreadableImageError(f"{frames.path}: has no frame; replace or remove it")
    first = written[0]
    return {
        "labels": first.labels,
        "overlay": first.overlay if video_name is None else video_name,
        "confidence": first.confidence,
        "share": shares(total, files.names),
        "frames": written,
    }
