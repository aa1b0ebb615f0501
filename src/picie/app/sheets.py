"""Contact sheets of the segments, and the pictures that contain each, from the gallery."""

from __future__ import annotations

import base64
import io
import threading
from collections import defaultdict
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from picie.app.gallery import Computed, Gallery, to_jpeg
from picie.inference.segmenter import Segmenter
from picie.inference.typical import Place, best_places, crop, look_of, typical_cells, varied

_PICTURES = 200  # the first pictures with features, from which crops are chosen
_CROPS, _MAX_TOTAL_CROPS = 4, 480  # per segment, and in all
_SMALLEST = 0.005  # share of a picture's cells that a segment must have for the list of its pictures


class Sheets:
    """What each segment looks like in the gallery's pictures so far.

    Cells are classified once for all changes of names; new clusters classify them again.

    Args:
        gallery: the pictures.
        segmenter: has the clusters and segments.
    """

    def __init__(self, gallery: Gallery, segmenter: Segmenter) -> None:
        self.gallery, self.segmenter = gallery, segmenter
        self._cells: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget the cells' clusters; the segmenter has new ones."""
        with self._lock:
            self._cells.clear()

    def classify(self, directions: Tensor) -> list[Computed]:
        """Classify the cells of pictures that have features by now, and return these pictures.

        `directions` are the (K, D) unit-norm centroids.
        """
        with self._lock:
            computed = self.gallery.computed[:]
            for one in computed:
                if one.index not in self._cells:
                    features = one.features.to(self.segmenter.engine.device).float()
                    clusters, scores = typical_cells(self.segmenter, directions, features)
                    self._cells[one.index] = clusters.astype(np.uint16), scores.astype(np.float16)
        return computed

    def sheets(self, directions: Tensor) -> dict[str, Any]:
        """The share of each segment, and crops of typical places, as data URIs.

        The result has "pictures", the number they are made from, and "segments", for each value
        "share" and "crops" of {index, name, src}.
        """
        computed = self.classify(directions)[:_PICTURES]
        v = len(self.segmenter.names)
        places: defaultdict[int, list[Place]] = defaultdict(list)
        values, shares = [], np.zeros(v)
        for number, one in enumerate(computed):
            clusters, scores = self._cells[one.index]
            values.append(self.segmenter.values(clusters))
            shares += np.bincount(values[-1].ravel(), minlength=v) / clusters.size
            for value, place in best_places(number, values[-1], scores):
                places[value].append(place)
        pictures: dict[int, Image.Image] = {}

        def picture(number: int) -> Image.Image:
            if number not in pictures:
                pictures[number] = Image.open(io.BytesIO(computed[number].reduced)).convert("RGB")
            return pictures[number]

        def look(place: Place) -> np.ndarray:
            return look_of(picture(place.picture), place, values[place.picture].shape)

        def shown(place: Place) -> dict[str, Any]:
            index = computed[place.picture].index
            data = base64.b64encode(to_jpeg(crop(picture(place.picture), values[place.picture], place))).decode()
            return {"index": index, "name": self.gallery.images.name(index), "src": f"data:image/jpeg;base64,{data}"}

        most = max(1, min(_CROPS, _MAX_TOTAL_CROPS // v))
        rows = [
            {"share": float(shares[value] / max(1, len(computed))), "crops": [*map(shown, varied(places[value], most, look))]}
            for value in range(v)
        ]
        return {"pictures": len(computed), "segments": rows}

    def pictures_with(self, value: int, directions: Tensor) -> list[tuple[int, float]]:
        """The numbers of the pictures that contain a segment, and its share, largest first."""
        found = []
        for one in self.classify(directions):
            share = float((self.segmenter.values(self._cells[one.index][0]) == value).mean())
            if share >= _SMALLEST:
                found.append((one.index, share))
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))
