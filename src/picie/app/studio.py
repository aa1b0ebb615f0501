"""The state of the page: one model, the pictures segmented last, and the names of the segments."""

from __future__ import annotations

import io
import secrets
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from picie.app.gallery import open_gallery
from picie.display.overlays import index_image
from picie.errors import InputError
from picie.inference.neighbors import feature_of, search
from picie.inference.segmenter import Segmenter
from picie.inference.segments import check_color, check_name
from picie.naming import changes as naming
from picie.runtime import checkpoint

_MAX_SIDE = 2048  # maximum side in pixels of the picture on the page; masks are saved at full size
_MEMORY = 2**28  # budget for segmented pictures, in bytes; the latest one is always kept
_NEIGHBORS = 8


class GoneError(InputError):
    """The picture is no longer in memory."""


class ChangedError(InputError):
    """The run has changed since the page loaded it."""


@dataclass(frozen=True)
class Opened:
    """A segmented picture.

    Attributes:
        clusters: (H, W) uint16, the cluster of each pixel.
        features: (D, h, w) float32 of unit norm, on the model's device.
        shown: the picture that the page shows, as PNG, at most 2048 pixels a side.
        shown_size: (width, height) of the shown picture.
        index: its number in the gallery, or None if it was uploaded.
    """

    clusters: np.ndarray
    features: Tensor
    shown: bytes
    shown_size: tuple[int, int]
    index: int | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return self.clusters.shape[1], self.clusters.shape[0]

    @property
    def nbytes(self) -> int:
        """The memory it takes, in bytes."""
        return self.clusters.nbytes + self.features.nbytes + len(self.shown)


class Studio:
    """Everything the page can do.

    Methods may be called from several threads; the model is used by one at a time.

    Args:
        run: a run's folder.
        images: a folder of pictures to search for neighbours. None takes those that the run was
            trained on.
        device: where to compute.

    Raises:
        InputError: the run, the folder or the device does not exist.
    """

    def __init__(self, run: Path, images: Path | None = None, device: str = "auto") -> None:
        self.run = run
        state = checkpoint.load(run)
        self.segmenter = Segmenter.from_state(state, device)
        self._centroids = checkpoint.centroids_in_use(state)
        self.gallery = open_gallery(self.segmenter, self._features, images)
        self._model = threading.Lock()
        self._opened: OrderedDict[str, Opened] = OrderedDict()

    def segments(self) -> list[dict[str, Any]]:
        """The name, colour and clusters of each segment, indexed by value."""
        segments = self.segmenter.segments
        pairs = zip(segments.names, segments.colors, strict=True)
        return [{"name": n, "color": c, "clusters": segments.clusters(value)} for value, (n, c) in enumerate(pairs)]

    def open(self, picture: Image.Image, index: int | None = None) -> tuple[str, Opened]:
        """Segment an upright RGB picture and keep it in memory. Returns its key and the result."""
        features = self._features(picture)
        with self._model:
            clusters = self.segmenter.clusters_of(features[None], (picture.height, picture.width))[0].astype(np.uint16)
        shown = picture.copy()
        shown.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        shown.save(file, "PNG", compress_level=1)
        opened, key = Opened(clusters, features, file.getvalue(), shown.size, index), secrets.token_urlsafe(12)
        with self._model:
            self._opened[key] = opened
            while len(self._opened) > 1 and sum(one.nbytes for one in self._opened.values()) > _MEMORY:
                self._opened.popitem(last=False)
        if self.gallery is not None:
            self.gallery.start()
        return key, opened

    def opened(self, key: str) -> Opened:
        """The picture with this key. Raises `GoneError` if it is no longer in memory."""
        with self._model:
            if key not in self._opened:
                raise GoneError("the picture is no longer in memory; open it again")
            self._opened.move_to_end(key)
            return self._opened[key]

    def shares(self, opened: Opened) -> list[float]:
        """The share of pixels of each segment, indexed by value."""
        values = self.segmenter.values(opened.clusters)
        counts = np.bincount(values.ravel(), minlength=len(self.segmenter.names))
        return [float(count) / values.size for count in counts]

    def mask(self, opened: Opened) -> bytes:
        """The label map as `picie predict` writes it."""
        file = io.BytesIO()
        index_image(self.segmenter.values(opened.clusters), self.segmenter.colors).save(file, "PNG")
        return file.getvalue()

    def shown_values(self, opened: Opened) -> bytes:
        """The label map of the shown picture: little-endian uint16 by rows, zlib-compressed."""
        (width, height), (columns, rows) = opened.size, opened.shown_size
        down, across = np.arange(rows) * 2 + 1, np.arange(columns) * 2 + 1
        part = opened.clusters[np.ix_(down * height // (2 * rows), across * width // (2 * columns))]
        return zlib.compress(self.segmenter.values(part).astype("<u2").tobytes(), 1)

    @torch.inference_mode()
    def query(self, opened: Opened, x: int, y: int) -> dict[str, Any]:
        """The segment of a pixel, and its neighbours in the gallery so far.

        Raises `InputError` outside the picture.
        """
        feature = feature_of(opened.features, opened.size, x, y)
        cluster = int(opened.clusters[y, x])
        center = self._centroids[cluster].to(feature)
        answer = {
            "value": int(self.segmenter.value_of_cluster[cluster]),
            "cluster": cluster,
            "similarity": float(F.cosine_similarity(feature, center, dim=0)),
            "neighbors": [],
        }
        if self.gallery is not None:
            images = self.gallery.features(feature.device, opened.index)
            with self._model:  # prevents a change of names in the meantime
                results = search(self.segmenter, feature, images, _NEIGHBORS, per_image=1)
                values = [self.segmenter.names.index(n.name) for n in results]
            answer["neighbors"] = [
                vars(n) | {"index": int(n.path), "path": self.gallery.images.name(int(n.path)), "value": value}
                for n, value in zip(results, values, strict=True)
            ]
        return answer

    def rename(self, value: int, was: str, name: str, color: str) -> None:
        """Change the name and colour of a segment, and store them in the run.

        Args:
            value: the segment.
            was: the name that the page shows for it.
            name: the new name.
            color: the new colour, "#rrggbb".

        Raises:
            ChangedError: the run has other clusters, or its names were changed elsewhere. In the
                second case the new names are loaded.
            InputError: the name or colour is not valid, or another process is using the run.
                Nothing is changed.
        """
        name, color = check_name(name), check_color(color)
        with self._model:
            now = Segmenter.load(self.run, "cpu")
            loaded = [part.cpu() for part in self.segmenter.classifier]
            if not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(loaded, now.classifier, strict=True)):
                raise ChangedError("the run has other clusters than this page; stop picie app and start it again")
            unchanged = now.segments == self.segmenter.segments
            self.segmenter.take_segments(now.segments)
            if not unchanged or not 0 <= value < len(now.names) or now.names[value] != was:
                raise ChangedError("the names were changed elsewhere, and this page now shows them; check them and try again")
            if name in now.names and now.names.index(name) != value:
                raise InputError(f"{name!r}: another segment has this name; give a different one")
            changed = now.segments.renamed({value: (name, color)})
            naming.change(self.run, naming.Changes(names={was: (name, color)}), device="cpu")
            self.segmenter.take_segments(changed)

    def _features(self, picture: Image.Image) -> Tensor:
        pixels = self.segmenter.to_pixels(picture)
        with self._model:
            return self.segmenter.encode(pixels)[0]
