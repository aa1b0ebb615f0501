"""The pictures that were segmented last, and what the page shows of them."""

from __future__ import annotations

import io
import secrets
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from picie.display.overlays import index_image, large_regions
from picie.errors import InputError
from picie.inference.segmenter import Segmenter

_MEMORY = 2**28  # budget for segmented pictures, in bytes; the latest one is always kept


class GoneError(InputError):
    """The picture is no longer in memory."""


@dataclass(frozen=True)
class Opened:
    """A segmented picture.

    Attributes:
        clusters: (H, W) uint16, the cluster of each pixel.
        features: (D, h, w) float32 of unit norm, on the model's device.
        shown: the picture that the page shows, as PNG, at most 2048 pixels a side.
        shown_size: (width, height) of the shown picture.
        index: its number in the gallery, or None if it was uploaded.
        version: the version of the clusters.
        picture: the path of its file; "" if it was uploaded.
    """

    clusters: np.ndarray
    features: Tensor
    shown: bytes
    shown_size: tuple[int, int]
    index: int | None
    version: int
    picture: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return self.clusters.shape[1], self.clusters.shape[0]

    @property
    def nbytes(self) -> int:
        """The memory it takes, in bytes."""
        return self.clusters.nbytes + self.features.nbytes + len(self.shown)


class OpenedPictures:
    """Pictures by key, in at most 256 MB; those that were used last are kept."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Opened] = OrderedDict()

    def add(self, opened: Opened) -> str:
        """Add a picture. Returns its key."""
        key = secrets.token_urlsafe(12)
        self._pictures[key] = opened
        while len(self._pictures) > 1 and sum(one.nbytes for one in self._pictures.values()) > _MEMORY:
            self._pictures.popitem(last=False)
        return key

    def find(self, key: str) -> Opened:
        """The picture with a key. Raises `GoneError` if it is no longer in memory."""
        if key not in self._pictures:
            raise GoneError("the picture is no longer in memory; open it again")
        self._pictures.move_to_end(key)
        return self._pictures[key]

    def replace(self, key: str, opened: Opened) -> None:
        """Store a picture under the key of an earlier version of it."""
        self._pictures[key] = opened


def look(segmenter: Segmenter, opened: Opened) -> dict[str, Any]:
    """The share of the pixels of each segment, and the large regions, which bear names."""
    values = segmenter.values(opened.clusters)
    counts = np.bincount(values.ravel(), minlength=len(segmenter.names))
    regions = [vars(region) for region in large_regions(values)]
    return {"shares": [float(count) / values.size for count in counts], "regions": regions}


def mask(segmenter: Segmenter, opened: Opened) -> bytes:
    """The label map as `picie predict` writes it."""
    return to_png(index_image(segmenter.values(opened.clusters), segmenter.colors))


def shown_values(segmenter: Segmenter, opened: Opened) -> bytes:
    """The label map of the shown picture: little-endian uint16 by rows, zlib-compressed."""
    (width, height), (columns, rows) = opened.size, opened.shown_size
    down, across = np.arange(rows) * 2 + 1, np.arange(columns) * 2 + 1
    part = opened.clusters[np.ix_(down * height // (2 * rows), across * width // (2 * columns))]
    return zlib.compress(segmenter.values(part).astype("<u2").tobytes(), 1)


def to_png(picture: Image.Image) -> bytes:
    """Encode a picture as a PNG file, quickly."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
