"""Draws the two views of a batch.

There is one shared geometry G, and one set of colours P for each view.
"""

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
    """The draws of a batch.

    These are the `geometry` (G) and the colour parameters (P1, P2) of the requested views.
    """

    geometry: Geometry
    photometric: tuple[tuple[Params, ...], ...]
    transforms: tuple[Photometric, ...]

    def pictures(self, frames: Tensor, view: int, size: tuple[int, int]) -> Tensor:
        """Return the network's input for `view`: G(P1 x) for view 0, and the whole P2 x for view 1.

        The features of view 1 are cropped by G instead.

        Args:
            frames: (B, 3, H, W), floating point in [0, 1].
            view: 0 or 1.
            size: (H, W) of a view.
        """
        shown = self.geometry if view == 0 else Geometry.identity(len(frames))
        return self.recolor(shown.apply(frames, size), view)

    def recolor(self, images: Tensor, view: int) -> Tensor:
        """Apply the colours of `view` to `images` (B, 3, H, W), floating point in [0, 1].

        They are applied at the resolution that the network sees. Operators that are affine in
        colour commute with resampling, so this equals recolouring the full frame first, at a
        fraction of the cost. There are two exceptions: the reference grey of contrast is that of
        the visible part, and the sigma of the blur is relative to the view.
        """
        return apply_photometric(self.transforms, images, self.photometric[view])


@dataclass(frozen=True)
class BatchViews:
    """The views of a batch of images, computed on first use.

    Attributes:
        draws: Geometry of the images, and colours if there are frames.
        size: (H, W) of a view.
        frames: (B, 3, H, W), floating point in [0, 1]; None if an earlier pass cached the views.
        load: Returns draws with colours, and frames, for images that are not cached; None if there
            are frames.
        made: Images that are computed or cached, by view.
        levels: Cached backbone levels, by view.
        guides: Colours of cells that are computed, by the numbers of cells.
    """

    draws: ViewDraws
    size: tuple[int, int]
    frames: Tensor | None = None
    load: Callable[[], tuple[ViewDraws, Tensor]] | None = None
    made: dict[int, Tensor] = field(default_factory=dict)
    levels: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)
    guides: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def pictures(self, view: int) -> Tensor:
        """Return the network's input for `view`, (B, 3, *size) in [0, 1].

        See `ViewDraws.pictures`.
        """
        if view not in self.made:
            draws, frames = self.draws, self.frames
            if frames is None:
                assert self.load is not None
                draws, frames = self.load()
            self.made[view] = draws.pictures(frames, view, self.size)
        return self.made[view]

    def guide(self, cells: tuple[int, int]) -> Tensor:
        """Return the colours of the features' cells, (B, 3, *cells) float32 in [0, 1].

        They are G x, without changes of colour, and the same for both views.
        """
        if cells not in self.guides:
            frames = self.frames
            if frames is None:
                assert self.load is not None
                _, frames = self.load()
            self.guides[cells] = self.draws.geometry.apply(frames, cells).float()
        return self.guides[cells]


class TwoViews:
    """Draws views as a function of (seed, epoch, image), as `picie.runtime.rng` describes.

    Args:
        invariance: Specs of the photometric transforms, {"name": ..., parameter: value}, applied
            in this order.
        equivariance: Specs of the geometric transforms, applied in this order.
        seed: The seed of the run.

    Raises:
        InputError: A transform or parameter is unknown, or a transform is in the wrong list.
    """

    def __init__(self, invariance: Sequence[Mapping[str, Any]], equivariance: Sequence[Mapping[str, Any]], seed: int) -> None:
        self.photometric: tuple[Photometric, ...] = tuple(build_transform(Photometric, spec) for spec in invariance)
        self.geometric: tuple[Geometric, ...] = tuple(build_transform(Geometric, spec) for spec in equivariance)
        self._streams = [[_stream(specs, i) for i in range(len(specs))] for specs in (invariance, equivariance)]
        self.seed = seed

    def draw(self, epoch: int, indices: Sequence[int] | np.ndarray, n_views: int = 2) -> ViewDraws:
        """Draw the views of the images `indices` in `epoch`, with colours of the first `n_views`.

        Equal arguments return equal draws.
        """
        geometry = Geometry.identity(len(indices))
        shared = ImageRNG((self.seed, epoch, "equivariance"), indices)
        for transform, stream in zip(self.geometric, self._streams[1], strict=True):
            geometry = geometry.then(transform.draw(shared.child(stream)))
        photometric = []
        for view in range(n_views):
            colours = ImageRNG((self.seed, epoch, "invariance", view), indices)
            drawn = zip(self.photometric, self._streams[0], strict=True)
            photometric.append(tuple(transform.draw(colours.child(stream)) for transform, stream in drawn))
        return ViewDraws(geometry, tuple(photometric), self.photometric)


def _stream(specs: Sequence[Mapping[str, Any]], position: int) -> str:
    """Name the random stream of one list entry: its transform, numbered if listed repeatedly."""
    names = [spec["name"] for spec in specs[: position + 1]]
    return f"{names[-1]}/{names.count(names[-1])}"
