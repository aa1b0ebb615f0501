"""What the page works with: one model, the last pictures that it segmented, the names of its segments."""

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

_SIDE = 2048  # most pixels a side of what the page shows; masks are saved at full size
_MEMORY = 2**28  # bytes of segmented pictures that are kept; the last one is kept in any case
_NEIGHBORS = 8


class GoneError(InputError):
    """The picture is not kept any more."""


class ChangedError(InputError):
    """The run is not what the page shows."""


@dataclass(frozen=True)
class Opened:
    """A segmented picture.

    Attributes:
        clusters: (H, W) uint16.
        features: (D, h, w) float32, unit norm, on the model's device.
        shown: PNG of the picture as the page shows it, at most 2048 pixels a side.
        shown_size: (width, height) of it.
        index: its number in the gallery, if it is from there.
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
        """Memory that it takes."""
        return self.clusters.nbytes + self.features.nbytes + len(self.shown)


class Studio:
    """All that the page can ask for. Calls may come from several threads; the model works for one at a time.

    Args:
        run: a run's folder.
        images: a folder of pictures to look for neighbours in; none: those that the run was trained on.
        device: where to compute.

    Raises:
        InputError: no such run, folder or device.
    """

    def __init__(self, run: Path, images: Path | None = None, device: str = "auto") -> None:
        self.run = run
        state = checkpoint.load(run)
        self.segmenter = Segmenter.from_state(state, device)
        self._centroids = checkpoint.centroids_in_use(state)
        self.gallery = open_gallery(self.segmenter, self._features, images)
        self._model = threading.Lock()
        self._kept: OrderedDict[str, Opened] = OrderedDict()

    def segments(self) -> list[dict[str, Any]]:
        """Name, colour and clusters of each segment, by value."""
        segments = self.segmenter.segments
        pairs = zip(segments.names, segments.colors, strict=True)
        return [{"name": n, "color": c, "clusters": segments.clusters(value)} for value, (n, c) in enumerate(pairs)]

    def open(self, picture: Image.Image, index: int | None = None) -> tuple[str, Opened]:
        """Segment an upright RGB picture, and keep it under a key."""
        features = self._features(picture)
        with self._model:
            clusters = self.segmenter.clusters_of(features[None], (picture.height, picture.width))[0].astype(np.uint16)
        shown = picture.copy()
        shown.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        shown.save(file, "PNG", compress_level=1)
        opened, key = Opened(clusters, features, file.getvalue(), shown.size, index), secrets.token_urlsafe(12)
        with self._model:
            self._kept[key] = opened
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > _MEMORY:
                self._kept.popitem(last=False)
        if self.gallery is not None:
            self.gallery.start()
        return key, opened

    def opened(self, key: str) -> Opened:
        """What is kept under `key`. Raises `GoneError`."""
        with self._model:
            if key not in self._kept:
                raise GoneError("the picture is not kept any more; open it again")
            self._kept.move_to_end(key)
            return self._kept[key]

    def shares(self, opened: Opened) -> list[float]:
        """Share of the pixels of each segment, by value."""
        values = self.segmenter.values(opened.clusters)
        counts = np.bincount(values.ravel(), minlength=len(self.segmenter.names))
        return [float(count) / values.size for count in counts]

    def mask(self, opened: Opened) -> bytes:
        """The label map as `picie predict` writes it."""
        file = io.BytesIO()
        index_image(self.segmenter.values(opened.clusters), self.segmenter.colors).save(file, "PNG")
        return file.getvalue()

    def shown_values(self, opened: Opened) -> bytes:
        """Values (uint16, low byte first, row by row, zlib) of what is shown, each of the pixel that its centre falls in."""
        (width, height), (columns, rows) = opened.size, opened.shown_size
        down, across = np.arange(rows) * 2 + 1, np.arange(columns) * 2 + 1
        part = opened.clusters[np.ix_(down * height // (2 * rows), across * width // (2 * columns))]
        return zlib.compress(self.segmenter.values(part).astype("<u2").tobytes(), 1)

    @torch.inference_mode()
    def query(self, opened: Opened, x: int, y: int) -> dict[str, Any]:
        """What a pixel is and what is like it in the gallery so far. Raises `InputError` for one outside."""
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
            with self._model:  # so that no name changes meanwhile
                found = search(self.segmenter, feature, images, _NEIGHBORS, per_image=1)
                values = [self.segmenter.names.index(n.name) for n in found]
            answer["neighbors"] = [
                vars(n) | {"index": int(n.path), "path": self.gallery.images.name(int(n.path)), "value": value}
                for n, value in zip(found, values, strict=True)
            ]
        return answer

    def rename(self, value: int, was: str, name: str, color: str) -> None:
        """Give a segment, which the page shows as `was`, another name and colour, in the run, too.

        Raises:
            ChangedError: the run has other names by now, which are taken over, or other clusters.
            InputError: a name or colour that cannot be, or another picie is at work on the run; nothing is changed.
        """
        name, color = check_name(name), check_color(color)
        with self._model:
            now = Segmenter.load(self.run, "cpu")
            own = [part.cpu() for part in self.segmenter.classifier]
            if not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(own, now.classifier, strict=True)):
                raise ChangedError("the run has other clusters than this page; stop picie app and start it again")
            known = now.segments == self.segmenter.segments
            self.segmenter.take_segments(now.segments)
            if not known or not 0 <= value < len(now.names) or now.names[value] != was:
                raise ChangedError("the names were changed elsewhere; here they are as they are now: look, and try again")
            if name in now.names and now.names.index(name) != value:
                raise InputError(f"{name!r}: another segment has this name; give a different one")
            changed = now.segments.renamed({value: (name, color)})
            naming.change(self.run, naming.Changes(names={value: (name, color)}), device="cpu")
            self.segmenter.take_segments(changed)

    def _features(self, picture: Image.Image) -> Tensor:
        pixels = self.segmenter.to_pixels(picture)
        with self._model:
            return self.segmenter.features(pixels)[0]
