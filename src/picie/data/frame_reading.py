"""The frame of a photo that training starts from: a large JPEG is decoded at a reduced scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from picie.data.base import Dataset
from picie.data.formats import open_with_pillow, without_limit
from picie.data.images import TRANSPOSES, centre_box, centre_frame, to_rgb
from picie.data.layout import EncodedImages
from picie.data.remarks import inspect

_SCALES = (8, 4, 2)  # that JPEG's decoders offer: the inverse transform of each block is smaller
# The reduced photo has at least this many pixels for each pixel of the frame, along each side. The
# frame then differs from that of the whole photo by 0.45 grey levels on average; with 1, by 1.4, for
# a gain of a tenth of the time (docs/research/benchmarks.md).
_MARGIN = 2
_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"})
_ORIENTATION = 0x0112  # of EXIF
_EXCHANGING = frozenset({TRANSPOSES[5], TRANSPOSES[6], TRANSPOSES[7], TRANSPOSES[8]})  # rows and columns


def read_frame(dataset: Dataset, index: int, size: tuple[int, int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the frame of an image, and the remarks on the image.

    A JPEG whose sides are at least four times those of the frame is decoded at a half, a quarter or
    an eighth of its size, so that the decoded image is at least twice as large as the frame. This
    is for datasets of encoded images whose class does not change `image`.

    Args:
        dataset: the images.
        index: which one.
        size: (H, W) of the frame.

    Returns:
        (3, H, W) uint8, and what `inspect` returns.

    Raises:
        UnreadableImageError: the image cannot be read.
    """
    kind: Any = type(dataset)
    if isinstance(dataset, EncodedImages) and kind.image is EncodedImages.image:
        reduced = _reduced_frame(dataset, index, size)
        if reduced is not None:
            return reduced
    image = dataset.image(index)
    return centre_frame(image, size), inspect(image)


def _reduced_frame(dataset: EncodedImages, index: int, size: tuple[int, int]) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """`read_frame` of a large JPEG; None for other images, and for those that cannot be read."""
    if Path(dataset.source(index)).suffix.lower() not in _JPEG_SUFFIXES:
        return None
    try:
        with dataset.encoded(index) as file, without_limit(), open_with_pillow(file) as image:
            width, height = image.size
            turn = TRANSPOSES.get(image.getexif().get(_ORIENTATION, 1))
            stored = size[::-1] if turn in _EXCHANGING else size
            top, left, box_height, box_width = centre_box(height, width, stored)
            scale = _scale(min(box_height / stored[0], box_width / stored[1]))
            if image.format not in {"JPEG", "MPO"} or scale == 1 or width * height > dataset.reading.max_pixels:
                return None
            image.draft(None, (width // scale, height // scale))
            image.load()
            if image.size != (-(-width // scale), -(-height // scale)):  # another decoder
                return None
            rgb = to_rgb(image)
    except Exception:  # the caller reads the whole image, and reports what is wrong
        return None
    box = (left / scale, top / scale, (left + box_width) / scale, (top + box_height) / scale)
    frame = rgb.resize((stored[1], stored[0]), Image.Resampling.BILINEAR, box=box)
    if turn is not None:
        frame = frame.transpose(turn)
    rgb.info = {"notes": ()}  # as `read_image` sets them
    return np.ascontiguousarray(np.asarray(frame).transpose(2, 0, 1)), inspect(rgb)


def _scale(ratio: float) -> int:
    """The scale at which a photo is decoded that is `ratio` times as large as the frame."""
    return next((scale for scale in _SCALES if ratio >= _MARGIN * scale), 1)
