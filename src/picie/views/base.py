"""The base classes of view transforms.

A transform draws its parameters once for a batch and then applies them.

Shapes: B batch, C channels, H W pixels, h w feature cells.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from picie import registry
from picie.errors import InputError, nearest
from picie.runtime.rng import ImageRNG
from picie.views.geometry import Geometry

Params = dict[str, Tensor]


class Photometric(ABC):
    """A colour transform (paper: P).

    It moves no pixel and keeps shape, dtype and the range [0, 1].
    """

    @abstractmethod
    def draw(self, rng: ImageRNG) -> Params:
        """Draw the parameters of a batch; each is a tensor with first dimension B."""

    @abstractmethod
    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Transform `images` (B, 3, H, W), floating point in [0, 1].

        Row i of each tensor in `params` belongs to image i.
        """


class Geometric(ABC):
    """A transform of positions (paper: G).

    It draws a `Geometry`, which applies to images, features and labels.

    Attributes:
        needs_square: Whether it exchanges rows and columns, which needs square frames
            (`views.aspect` = 1).
    """

    needs_square: ClassVar[bool] = False

    @abstractmethod
    def draw(self, rng: ImageRNG) -> Geometry:
        """Draw the geometry of a batch."""


def build_transform(family: type[Photometric] | type[Geometric], spec: Mapping[str, Any]) -> Any:
    """Build the transform that `spec` describes: {"name": ..., parameter: value, ...}.

    Raises:
        InputError: The name or a parameter is unknown, the transform refuses a value, or the
            transform belongs to the other family.
    """
    photometric = issubclass(family, Photometric)
    where = "views.invariance" if photometric else "views.equivariance"
    same_family, other_family = (
        (registry.INVARIANCE, registry.EQUIVARIANCE) if photometric else (registry.EQUIVARIANCE, registry.INVARIANCE)
    )
    name = spec["name"]
    other_list = "views.equivariance" if photometric else "views.invariance"
    if name in other_family:
        raise InputError(f"{where}: {name!r} belongs in {other_list}; move it there")
    transform = registry.find(same_family, name, where)
    if not (isinstance(transform, type) and issubclass(transform, family)):
        raise InputError(f"{where}: {name!r} is not a {family.__name__} transform; see docs/extending.md")
    params = {key: value for key, value in spec.items() if key != "name"}
    valid = list(inspect.signature(transform).parameters)
    for key in params:
        if key not in valid:
            raise InputError(f"{where}: {name} has no parameter {key!r}; {nearest(key, valid)}")
    try:
        return transform(**params)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {name}: {error}") from error


def chance(rng: ImageRNG, p: float) -> Tensor:
    """Draw (B,) booleans that are true with probability `p`."""
    return torch.from_numpy(rng.uniform() < p)


def check_probability(p: float) -> float:
    """Return `p` as a float. Raises ValueError if it is not a probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"p = {p} is not a probability; give a number in [0, 1]")
    return float(p)
