"""The state of the page: one model, the pictures segmented last, and the names of the segments."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from picie.app.clicks import Clicks, TaughtPixel
from picie.app.exports import Exports
from picie.app.gallery import open_gallery
from picie.app.opened import Opened, OpenedPictures, to_png
from picie.app.sheets import Sheets
from picie.errors import InputError
from picie.inference.few_labels import random_cells
from picie.inference.neighbors import feature_of, search
from picie.inference.outputs import margin_map
from picie.inference.sampling import training_images
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits
from picie.naming import changes as naming
from picie.naming import history, teaching
from picie.runtime import checkpoint

_MAX_SIDE = 2048  # maximum side in pixels of the picture on the page; masks are saved at full size
_NEIGHBORS = 8


class ChangedError(InputError):
    """The run has changed since the page loaded it."""


class Studio:
    """Everything the page can do.

    Methods may be called from several threads; the model is used by one at a time.

    Args:
        run: a run's folder.
        images: a folder of pictures to choose from and to search for neighbours. None takes those
            that the run was trained on.
        device: where to compute.

    Attributes:
        version: changes when the clusters do.

    Raises:
        InputError: the run, the folder or the device does not exist.
    """

    def __init__(self, run: Path, images: Path | None = None, device: str = "auto") -> None:
        self.run, self.device, self._images = run, device, images
        self._model, self._changing = threading.Lock(), threading.Lock()
        state = checkpoint.load(run)
        self.segmenter = Segmenter.from_state(state, device)
        self.gallery = open_gallery(self.segmenter, self._features, images)
        files = getattr(self.gallery and self.gallery.images, "paths", None)
        self.exports = Exports(run, files, device) if files else None
        self.clicks = Clicks()
        self.sheets = None if self.gallery is None else Sheets(self.gallery, self.segmenter)
        self._network, self.version = checkpoint.fingerprint(state["method"]), 0
        self._take(state)
        self._sample = cache(self._sample_features)
        self._opened = OpenedPictures()

    def segments(self) -> list[dict[str, Any]]:
        """The name, colour and clusters of each segment, indexed by value."""
        segments = self.segmenter.segments
        rows = zip(segments.names, segments.colors, segments.members(), strict=True)
        return [{"name": name, "color": color, "clusters": clusters} for name, color, clusters in rows]

    def open(self, picture: Image.Image, index: int | None = None) -> tuple[str, Opened]:
        """Segment an upright RGB picture and keep it in memory. Returns its key and the result."""
        features = self._features(picture)
        with self._model:
            clusters = self._clusters(features, (picture.height, picture.width))
            version = self.version
        shown = picture.copy()
        shown.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
        opened = Opened(clusters, features, to_png(shown), shown.size, index, version, self._path(index))
        with self._model:
            key = self._opened.add(opened)
        if self.gallery is not None:
            self.gallery.start()
        return key, opened

    def opened(self, key: str) -> Opened:
        """The picture with this key, in the clusters in use.

        Raises `GoneError` if it is no longer in memory.
        """
        with self._model:
            one = self._opened.find(key)
            if one.version != self.version:
                clusters = self._clusters(one.features, (one.size[1], one.size[0]))
                one = replace(one, clusters=clusters, version=self.version)
                self._opened.replace(key, one)
            return one

    def shown_confidence(self, opened: Opened) -> bytes:
        """The margin of each pixel of the shown picture: uint8 by rows, zlib-compressed."""
        with self._model:
            logits = prototype_logits(opened.features[None], *self.segmenter.classifier)
            margins = margin_map(logits, opened.shown_size[::-1], self.segmenter.mixture)
        return zlib.compress(margins.tobytes(), 1)

    @torch.inference_mode()
    def query(self, opened: Opened, x: int, y: int) -> dict[str, Any]:
        """The segment of a pixel, and its neighbours in the gallery so far.

        Raises `InputError` outside the picture.
        """
        feature = feature_of(opened.features, opened.size, x, y)
        with self._model:  # prevents a change of names in the meantime
            cluster = int(opened.clusters[y, x])
            if cluster >= self.segmenter.k:
                raise ChangedError("the clusters have changed; open the picture again")
            center = self._directions[cluster].to(feature)
            answer = {
                "value": int(self.segmenter.value_of_cluster[cluster]),
                "cluster": cluster,
                "similarity": float(F.cosine_similarity(feature, center, dim=0)),
                "neighbors": [],
            }
            if self.gallery is not None:
                images = self.gallery.features(feature.device, opened.index)
                results = search(self.segmenter, feature, images, _NEIGHBORS, per_image=1)
                values = [self.segmenter.names.index(n.name) for n in results]
                answer["neighbors"] = [
                    vars(n) | {"index": int(n.path), "path": self.gallery.images.name(int(n.path)), "value": value}
                    for n, value in zip(results, values, strict=True)
                ]
        return answer

    def contact_sheets(self) -> dict[str, Any]:
        """What each segment looks like, see `Sheets.sheets`. Raises `InputError` without pictures."""
        if self.sheets is None:
            raise InputError("there are no pictures; start picie app with --images DIR")
        with self._model:
            return self.sheets.sheets(self._directions)

    def pictures_with(self, value: int) -> list[tuple[int, float]]:
        """The pictures that contain a segment, see `Sheets.pictures_with`."""
        if self.sheets is None or not 0 <= value < len(self.segmenter.names):
            raise InputError(f"{value}: no such segment, or no pictures")
        with self._model:
            return self.sheets.pictures_with(value, self._directions)

    def last_change(self) -> str | None:
        """The change that `undo` takes back, in words, or None."""
        return self._last_change

    def change(self, was: Sequence[str], changes: naming.Changes) -> None:
        """Change the segments and store them in the run, as `picie name` does.

        Args:
            was: the names that the page shows.
            changes: the changes.

        Raises:
            ChangedError: the run's names or clusters were changed elsewhere; the page has now
                loaded them. Or the run has another network.
            InputError: a change is not possible, or another process is using the run. Nothing is
                changed.
        """
        with self._changing:
            self._check(was)
            naming.change(self.run, changes, device=self.device, sample=self._sample)
            self._take(checkpoint.load(self.run))

    def undo(self, was: Sequence[str]) -> None:
        """Take back the latest change, see `change`."""
        with self._changing:
            self._check(was)
            history.undo(self.run)
            self._take(checkpoint.load(self.run))

    def click(self, opened: Opened, x: int, y: int, name: str) -> None:
        """Name a pixel of a picture, for `teach`.

        Raises `InputError` outside the picture, or for a name that no segment can have.
        """
        feature = feature_of(opened.features, opened.size, x, y).cpu()
        self.clicks.add(TaughtPixel(opened.picture, x, y, name.strip(), feature))

    def teach(self, was: Sequence[str]) -> None:
        """Teach the run classes by the clicks so far, as `picie teach` does; see `change`.

        The other pictures of the gallery with features by now are used without labels.
        """
        with self._changing:
            self._check(was)
            computed = [] if self.gallery is None else self.gallery.computed[:]
            if not self.clicks.counts() or not computed:
                raise InputError("name a few pixels of at least two classes first, in pictures of the strip")
            points, names = self.clicks.features()
            cells = torch.cat([random_cells(one.features, len(computed), i) for i, one in enumerate(computed)])
            teaching.teach_features(self.run, points, names, F.normalize(cells.float(), dim=1))
            self._take(checkpoint.load(self.run))

    def _check(self, was: Sequence[str]) -> None:
        """Raise `ChangedError` unless the run has the segments that the page shows."""
        state = checkpoint.load(self.run)
        if checkpoint.fingerprint(state["method"]) != self._network:
            raise ChangedError("the run was trained further; stop picie app and start it again")
        segments, classifier = self.segmenter.segments, [part.cpu() for part in self.segmenter.classifier]
        self._take(state)
        same = all(torch.equal(old, new.cpu()) for old, new in zip(classifier, self.segmenter.classifier, strict=True))
        if not same or segments != self.segmenter.segments or tuple(was) != segments.names:
            raise ChangedError("the names were changed elsewhere, and this page now shows them; check them and try again")

    def _take(self, state: dict[str, Any]) -> None:
        """Use the clusters and segments of the run's checkpoint."""
        old = self.segmenter.classifier
        with self._model:
            self.segmenter.follow(state)
            self._directions = F.normalize(checkpoint.centroids_in_use(state), dim=1)
            self._last_change = history.last_change(state)
            new = self.segmenter.classifier
            if not all(torch.equal(a, b) for a, b in zip(old, new, strict=True)):
                self.version += 1
                if self.sheets is not None:
                    self.sheets.clear()

    def _path(self, index: int | None) -> str:
        """The path of a picture of the gallery, or its name if it is no file; "" for an upload."""
        if index is None or self.gallery is None:
            return ""
        paths = getattr(self.gallery.images, "paths", None)
        return self.gallery.images.name(index) if paths is None else str(Path(paths[index]).absolute())

    def _sample_features(self) -> Tensor:
        """Features for splits and new clusters, as `picie name` computes them."""
        segmenter, data = Segmenter.load(self.run, self.device), None
        try:
            training_images(segmenter.config.data)
        except InputError:
            data = self._images
        return naming.sample_features(segmenter, data)

    def _clusters(self, features: Tensor, size: tuple[int, int]) -> np.ndarray:
        clusters: np.ndarray = self.segmenter.clusters_of(features[None], size)[0].astype(np.uint16)
        return clusters

    def _features(self, picture: Image.Image) -> Tensor:
        pixels = self.segmenter.to_pixels(picture)
        with self._model:
            return self.segmenter.encode(pixels)[0]
