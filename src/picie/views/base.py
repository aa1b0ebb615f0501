"""What a view transform is. Each draws its parameters once, for a batch, and applies them to whatever is given.

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
    """A transform of colours: it moves no pixel and keeps shape, dtype and range [0, 1] (paper: P)."""

    @abstractmethod
    def draw(self, draws: ImageRNG) -> Params:
        """The parameters of a batch, each a tensor with first dimension B."""

    @abstractmethod
    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Transform `images` (B, 3, H, W) float in [0, 1] with one parameter each. Rows of `params` match images."""


class Geometric(ABC):
    """A transform of positions (paper: G): it draws a `Geometry`, which applies to images, features and labels alike.

    Attributes:
        needs_square: whether it exchanges rows and columns, which frames of `views.aspect` other than 1 do not allow.
    """

    needs_square: ClassVar[bool] = False

    @abstractmethod
    def draw(self, draws: ImageRNG) -> Geometry:
        """The geometry of a batch."""


def build_transform(family: type[Photometric] | type[Geometric], spec: Mapping[str, Any]) -> Any:
    """Make the transform that `spec` describes: {"name": ..., parameter: value, ...}.

    Raises:
        InputError: an unknown name or parameter, a value that the transform refuses, or a member of the other family.
    """
    photometric = issubclass(family, Photometric)
    where = "views.invariance" if photometric else "views.equivariance"
    own, other = (registry.INVARIANCE, registry.EQUIVARIANCE) if photometric else (registry.EQUIVARIANCE, registry.INVARIANCE)
    name = spec["name"]
    other_list = "views.equivariance" if photometric else "views.invariance"
    if name in other:
        raise InputError(f"{where}: {name!r} belongs in {other_list}; move it there")
    transform = registry.find(own, name, where)
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


def chance(draws: ImageRNG, p: float) -> Tensor:
    """(B,) bool: true with probability p."""
    return torch.from_numpy(draws.uniform() < p)


def check_probability(p: float) -> float:
    """`p` if it is a probability. Raises ValueError otherwise."""
    if not 0 <= p <= 1:
        raise ValueError(f"p = {p} is no probability; give a number in [0, 1]")
    return float(p)
