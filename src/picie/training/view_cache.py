"""The cache of an epoch's views, filled by the clustering pass and read by the later passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from picie.runtime import distributed

Kind = Literal["levels", "pictures"]


class ViewCache:
    """Caches levels and pictures of an epoch's views between passes; trades memory for speed.

    Labelling visits the images in the same batches as clustering. It uses the levels of as many
    images as fit, which need no second forward pass. Training shuffles the images, so it uses the
    cache only if it is complete: the pictures, or the levels if they are fixed. A view of 160 px
    takes 147 kB as levels of EfficientNet-Lite0 in bfloat16, 384 kB as those of ResNet-18, and
    154 kB as a picture.

    Args:
        budget: bytes on the device, for levels and pictures together.
        fixed: whether training leaves the levels as they are, and so uses them.
        n: number of views of all images.
    """

    def __init__(self, budget: float = 0, fixed: bool = False, n: int = 0) -> None:
        self._budget, self._fixed, self._n = budget, fixed, n
        self._maps: dict[Kind, dict[tuple[int, int], list[Tensor]]] = {"levels": {}, "pictures": {}}
        self._bytes: dict[Kind, int] = {"levels": 0, "pictures": 0}

    def put(self, indices: np.ndarray, view: int, levels: Sequence[Tensor], pictures: Tensor) -> None:
        """Cache one view of the images `indices`.

        `levels` may be empty; `pictures` are (B, 3, H, W).
        """
        if levels:
            self._store("levels", indices, view, levels)
        all_bytes = sum(tensor.nbytes for tensor in (*levels, pictures)) / max(1, len(indices)) * self._n
        # With several processes each one trains on other images than it clustered.
        if not self._fixed and all_bytes <= self._budget and distributed.world_size() == 1:
            self._store("pictures", indices, view, [pictures])

    def _store(self, kind: Kind, indices: np.ndarray, view: int, tensors: Sequence[Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        if self._bytes[kind] + size > self._budget:
            return
        self._bytes[kind] += size
        # Levels stay channels last and pictures channels first, as they are computed: a sum over a
        # tensor of another layout rounds differently, and caching must not change results.
        stored = [(tensor.permute(0, 2, 3, 1) if kind == "levels" else tensor).contiguous() for tensor in tensors]
        for position, index in enumerate(indices.tolist()):
            self._maps[kind][index, view] = [maps[position] for maps in stored]

    def find(self, indices: np.ndarray, views: Sequence[int]) -> Kind | None:
        """Return the kind that is cached for all `views` of all images `indices`.

        It is None if neither is, or if there are no images.
        """
        keys = [(index, view) for view in views for index in indices.tolist()]
        kinds: tuple[Kind, ...] = ("levels", "pictures")
        return next((kind for kind in kinds if keys and all(key in self._maps[kind] for key in keys)), None)

    def get(self, kind: Kind, indices: np.ndarray, view: int) -> list[Tensor]:
        """Return the cached tensors (B, C, h, w) of one view of `indices`, in any order."""
        maps = zip(*(self._maps[kind][index, view] for index in indices.tolist()), strict=True)
        stacked = [torch.stack(tensors) for tensors in maps]
        return [tensor.permute(0, 3, 1, 2) for tensor in stacked] if kind == "levels" else stacked

    def size(self, kind: Kind) -> int:
        """Return the number of cached views."""
        return len(self._maps[kind])

    def finish_labels(self) -> None:
        """Free the levels after labelling, unless training uses them all."""
        if not self._fixed or self.size("levels") < self._n:
            self._free("levels")

    def clear(self) -> None:
        """Free everything at the end of the epoch."""
        self._free("levels")
        self._free("pictures")

    def _free(self, kind: Kind) -> None:
        self._maps[kind].clear()
        self._bytes[kind] = 0
