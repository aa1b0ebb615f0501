"""The draws behind the two views of a batch: one geometry G, shared, and one set of colours P for each view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from picie.runtime.rng import ImageRNG
from picie.views.base import Geometric, Params, Photometric, build_transform
from picie.views.geometry import Geometry
from picie.views.invariance import apply_photometric


@dataclass(frozen=True)
class ViewDraws:
    """What was drawn for a batch: `geometry` (G) and, of as many views as were asked for, colour parameters (P1, P2)."""

    geometry: Geometry
    photometric: tuple[tuple[Params, ...], ...]
    transforms: tuple[Photometric, ...]

    def pictures(self, frames: Tensor, view: int, size: tuple[int, int]) -> Tensor:
        """What the network is given of `view`: G(P1 x) for view 0, and for view 1 P2 x, whole, whose features G crops.

        Args:
            frames: (B, 3, H, W) float in [0, 1].
            view: 0 or 1.
            size: (H, W) of a view.
        """
        shown = self.geometry if view == 0 else Geometry.identity(len(frames))
        return self.recolor(shown.apply(frames, size), view)

    def recolor(self, images: Tensor, view: int) -> Tensor:
        """P of `view` on `images` (B, 3, H, W) float in [0, 1].

        It is applied at the resolution that the network sees. Operators that are affine in colour commute with
        resampling, so this equals recolouring the full frame first (but for contrast's reference grey, which is that of
        the visible part, and for the blur, whose sigma is relative to the view) at a fraction of the cost.
        """
        return apply_photometric(self.transforms, images, self.photometric[view])


@dataclass(frozen=True)
class BatchViews:
    """The views of a batch of images, made when they are asked for.

    Attributes:
        draws: G of these images, and P if there are frames.
        size: (H, W) of a view.
        frames: (B, 3, H, W) floating point in [0, 1]; None if an earlier pass cached the views.
        load: draws with P, and frames, for pictures that are neither cached nor made; None if there are frames.
        made: pictures, by view, that are made or cached.
        levels: cached levels, by view.
    """

    draws: ViewDraws
    size: tuple[int, int]
    frames: Tensor | None = None
    load: Callable[[], tuple[ViewDraws, Tensor]] | None = None
    made: dict[int, Tensor] = field(default_factory=dict)
    levels: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)

    def pictures(self, view: int) -> Tensor:
        """(B, 3, *size) in [0, 1]: the network's input for `view`, see `ViewDraws.pictures`."""
        if view not in self.made:
            draws, frames = self.draws, self.frames
            if frames is None:
                assert self.load is not None
                draws, frames = self.load()
            self.made[view] = draws.pictures(frames, view, self.size)
        return self.made[view]


class TwoViews:
    """ImageRNG views as the function of (seed, epoch, image) that `picie.runtime.rng` describes.

    Args:
        invariance: specs of the photometric transforms, {"name": ..., parameter: value}, applied in this order.
        equivariance: specs of the geometric transforms, applied in this order.
        seed: the run's seed.

    Raises:
        InputError: an unknown transform or parameter, or a transform in the wrong list.
    """

    def __init__(self, invariance: Sequence[Mapping[str, Any]], equivariance: Sequence[Mapping[str, Any]], seed: int) -> None:
        self.photometric: tuple[Photometric, ...] = tuple(build_transform(Photometric, spec) for spec in invariance)
        self.geometric: tuple[Geometric, ...] = tuple(build_transform(Geometric, spec) for spec in equivariance)
        self._streams = [[_stream(specs, i) for i in range(len(specs))] for specs in (invariance, equivariance)]
        self.seed = seed

    def draw(self, epoch: int, indices: Sequence[int] | np.ndarray, n_views: int = 2) -> ViewDraws:
        """The draws of the images `indices` in `epoch`, colours of the first `n_views`; equal arguments give equal draws."""
        geometry = Geometry.identity(len(indices))
        shared = ImageRNG((self.seed, epoch, "equivariance"), indices)
        for transform, stream in zip(self.geometric, self._streams[1], strict=True):
            geometry = geometry.then(transform.draw(shared.child(stream)))
        photometric = []
        for view in range(n_views):
            own = ImageRNG((self.seed, epoch, "invariance", view), indices)
            drawn = zip(self.photometric, self._streams[0], strict=True)
            photometric.append(tuple(transform.draw(own.child(stream)) for transform, stream in drawn))
        return ViewDraws(geometry, tuple(photometric), self.photometric)


def _stream(specs: Sequence[Mapping[str, Any]], position: int) -> str:
    """A name for the random stream of one list entry: its transform's name, numbered where that is listed again."""
    names = [spec["name"] for spec in specs[: position + 1]]
    return f"{names[-1]}/{names.count(names[-1])}"
