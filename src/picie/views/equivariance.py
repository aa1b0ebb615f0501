"""Geometric transforms, which features must follow (paper, section 3.2.2: equivariance)."""

from __future__ import annotations

import torch

from picie.runtime.rng import ImageRNG
from picie.views.base import Geometric, chance, check_probability
from picie.views.geometry import Geometry


class Crop(Geometric):
    """Crops a random box with the shape of the frame and enlarges it to the full view.

    Args:
        scale: Bounds of the box's side as a fraction of the frame, in (0, 1]. The side is uniform
            between them and the position is uniform in the frame. The paper uses [0.5, 1].
    """

    def __init__(self, scale: tuple[float, float] = (0.5, 1.0)) -> None:
        low, high = scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale = {list(scale)} must hold two rising numbers in (0, 1], e.g. [0.5, 1.0]")
        self.scale = (float(low), float(high))

    def draw(self, rng: ImageRNG) -> Geometry:
        side = rng.uniform(*self.scale)
        top = rng.uniform() * (1 - side)
        left = rng.uniform() * (1 - side)
        box = torch.from_numpy(side)[:, None] * torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
        offset = torch.stack([torch.from_numpy(top), torch.from_numpy(left)], dim=1).repeat_interleave(2, dim=1)
        return Geometry(box + offset, torch.zeros(len(rng), dtype=torch.bool))


class HorizontalFlip(Geometric):
    """Exchanges left and right with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, rng: ImageRNG) -> Geometry:
        return _flip(chance(rng, self.p), [0, 1, 3, 2])


class VerticalFlip(Geometric):
    """Exchanges top and bottom with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, rng: ImageRNG) -> Geometry:
        return _flip(chance(rng, self.p), [1, 0, 2, 3])


class QuarterTurns(Geometric):
    """Rotates by 90, 180 or 270 degrees, equally likely, with probability `p`.

    It suits images without an upward direction, e.g. aerial images.
    """

    needs_square = True

    def __init__(self, p: float = 0.75) -> None:
        self.p = check_probability(p)

    def draw(self, rng: ImageRNG) -> Geometry:
        turned = chance(rng, self.p)
        turns = torch.from_numpy(1 + (rng.uniform() * 3).astype(int)) * turned  # 0..3
        # Two turns are both flips; odd numbers add a transposition.
        geometry = _flip(turns >= 2, [1, 0, 3, 2])
        odd = (turns % 2) == 1
        box = torch.where(odd[:, None], geometry.box[:, [1, 0, 2, 3]], geometry.box)
        return Geometry(box, odd)


def _flip(flipped: torch.Tensor, order: list[int]) -> Geometry:
    """The whole frame, with its edges reordered by `order` where `flipped` (B,) is true."""
    geometry = Geometry.identity(len(flipped))
    return Geometry(torch.where(flipped[:, None], geometry.box[:, order], geometry.box), geometry.transpose)
