"""Geometric transforms: what the features must move along with (paper, section 3.2.2: equivariance)."""

from __future__ import annotations

import torch

from picie.runtime.rng import ImageRNG
from picie.views.base import Geometric, chance, check_probability
from picie.views.geometry import Geometry


class Crop(Geometric):
    """A random box of the frame's own shape, enlarged to the full view.

    Args:
        scale: smallest and largest side as a fraction of the frame, in (0, 1]; the side is uniform between them and
            the position uniform in the frame. The paper's are [0.5, 1].
    """

    def __init__(self, scale: tuple[float, float] = (0.5, 1.0)) -> None:
        low, high = scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale = {list(scale)} must hold two rising numbers in (0, 1], e.g. [0.5, 1.0]")
        self.scale = (float(low), float(high))

    def draw(self, draws: ImageRNG) -> Geometry:
        side = draws.uniform(*self.scale)
        top = draws.uniform() * (1 - side)
        left = draws.uniform() * (1 - side)
        box = torch.from_numpy(side)[:, None] * torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
        offset = torch.stack([torch.from_numpy(top), torch.from_numpy(left)], dim=1).repeat_interleave(2, dim=1)
        return Geometry(box + offset, torch.zeros(len(draws), dtype=torch.bool))


class HorizontalFlip(Geometric):
    """Left and right exchanged with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, draws: ImageRNG) -> Geometry:
        return _flip(chance(draws, self.p), [0, 1, 3, 2])


class VerticalFlip(Geometric):
    """Top and bottom exchanged with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, draws: ImageRNG) -> Geometry:
        return _flip(chance(draws, self.p), [1, 0, 2, 3])


class QuarterTurns(Geometric):
    """With probability p a turn by 90, 180 or 270 degrees, each as likely; for pictures without an up, e.g. from above."""

    needs_square = True

    def __init__(self, p: float = 0.75) -> None:
        self.p = check_probability(p)

    def draw(self, draws: ImageRNG) -> Geometry:
        turned = chance(draws, self.p)
        turns = torch.from_numpy(1 + (draws.uniform() * 3).astype(int)) * turned  # 0..3
        geometry = _flip(turns >= 2, [1, 0, 3, 2])  # two turns are both flips; the odd ones add one turn more
        odd = (turns % 2) == 1
        box = torch.where(odd[:, None], geometry.box[:, [1, 0, 2, 3]], geometry.box)
        return Geometry(box, odd)


def _flip(flipped: torch.Tensor, order: list[int]) -> Geometry:
    """The whole frame, its edges reordered by `order` where `flipped` (B,) holds."""
    geometry = Geometry.identity(len(flipped))
    return Geometry(torch.where(flipped[:, None], geometry.box[:, order], geometry.box), geometry.transpose)
