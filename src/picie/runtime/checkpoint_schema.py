"""The structure of a checkpoint, checked when it is read.

A damaged or malicious file then causes an error of one line, not an exception somewhere in the
code that uses it. The configuration in it is checked by `picie.config`, the weights by the method
that loads them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from picie.errors import validation_message

_MAX_CLUSTERS = 65535
_MAX_DEPTH = 20  # of the configuration's nested values


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor holds plain real numbers, each of them stored.

    A small file may claim 40 TB by repeating one number.
    """
    odd = tensor.is_nested or tensor.is_quantized or tensor.is_complex()
    if odd or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _dense(tensor: Tensor) -> Tensor:
    if not is_dense(tensor):
        raise ValueError("is not a plain tensor of stored numbers")
    return tensor


def _color(text: str) -> str:
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text) is None:
        raise ValueError("is not a colour of the form #rrggbb")
    return text


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` if it holds only nested strings and numbers."""
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        if any(not isinstance(key, str) for part in level if isinstance(part, dict) for key in part):
            raise ValueError("has a key that is not a string")
        level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        if any(not isinstance(item, dict | list | tuple | str | int | float | None) for item in level):
            raise ValueError("contains something other than strings and numbers")
        level = [item for item in level if isinstance(item, dict | list | tuple)]
    if level:
        raise ValueError("is nested too deeply")
    return value


_Dense = Annotated[Tensor, AfterValidator(_dense)]
_Color = Annotated[str, AfterValidator(_color)]
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Numbers = Annotated[list[float], Field(max_length=16)]  # one for each view
_Value = Annotated[int, Field(ge=-1, lt=2**17)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class _Classifier(_Part):
    weight: _Dense
    bias: _Dense

    @model_validator(mode="after")
    def _fits(self) -> _Classifier:
        shape, floating = self.weight.shape, self.weight.is_floating_point() and self.bias.is_floating_point()
        if not (floating and len(shape) == 2 and 1 <= shape[0] <= _MAX_CLUSTERS and self.bias.shape == shape[:1]):
            raise ValueError("weight must be (K, D) and bias (K,), both floating point")
        return self


class _Clusters(_Classifier):
    centroids: _Dense

    @model_validator(mode="after")
    def _same_shape(self) -> _Clusters:
        if self.centroids.shape != self.weight.shape or not self.centroids.is_floating_point():
            raise ValueError("centroids must be of the shape of weight, (K, D), and floating point")
        return self


class _Named(_Part):
    names: list[str]
    colors: list[_Color]
    assignment: list[_Value]

    @model_validator(mode="after")
    def _consistent(self) -> _Named:
        if not self.names or len(self.names) != len(self.colors) or len(set(self.names)) != len(self.names):
            raise ValueError("give at least one name, all different, and a colour for each")
        if max(self.assignment, default=0) >= len(self.names):
            raise ValueError("a cluster is assigned to a value without a name")
        return self


class _Matching(_Named):
    ignore: int
    protocol: str = ""


class _Segments(_Named):
    user_defined: bool

    @model_validator(mode="after")
    def _all_assigned(self) -> _Segments:
        if min(self.assignment, default=0) < 0:
            raise ValueError("a cluster belongs to no segment")
        return self


class _Naming(_Part):
    clusters: _Clusters | None
    segments: _Segments
    matching: _Matching | None = None
    taught: Annotated[dict[str, _Count], Field(min_length=1)] | None = None


class _Step(_Part):
    what: str
    naming: _Naming | None
    matching: _Matching | None


class _Clustering(_Part):
    centroids: _Dense
    counts: _Dense
    inertia: _Numbers
    imbalance: _Numbers
    empty: list[_Count]

    @model_validator(mode="after")
    def _fits(self) -> _Clustering:
        views = len(self.inertia)
        lengths = {views, len(self.imbalance), len(self.empty), *self.centroids.shape[:1], *self.counts.shape[:1]}
        shapes = self.centroids.dim() == 3 and self.counts.shape == self.centroids.shape[:2]
        if lengths != {views} or not shapes or not self.centroids.is_floating_point() or self.counts.is_floating_point():
            raise ValueError("centroids must be (V, K, D), counts (V, K) integers, and the figures V numbers each")
        return self


class _Summary(_Part):
    images: _Count | None = None
    epochs: _Count | None = None
    accuracy: float | None = None
    miou: float | None = None
    protocol: str | None = None


class _Checkpoint(_Part):
    format: Literal["picie"]
    version: Annotated[int, Field(ge=0)]
    picie: str = ""
    config: Annotated[dict[str, Any], AfterValidator(_plain)]
    images: str | None = None
    imported: dict[str, Any] | None = None
    method: dict[str, _Dense]
    classifier: _Classifier
    optimizers: list[dict[str, Any]] = []
    epoch: _Count
    step: _Count
    finished: bool
    matching: _Matching | None
    naming: _Naming | None = None
    undo: list[_Step] = []
    totals: dict[str, float] = {}
    seconds: dict[str, float] = {}
    clustering: _Clustering | None = None
    over_clustering: _Clustering | None = None
    summary: _Summary | None = None

    @model_validator(mode="after")
    def _consistent(self) -> _Checkpoint:
        self._check_naming("", self.naming, self.matching)
        for number, step in enumerate(self.undo):
            self._check_naming(f"undo.{number}.", step.naming, step.matching)
        return self

    def _check_naming(self, where: str, naming: _Naming | None, matching: _Matching | None) -> None:
        """Raise `ValueError` if the segments and matchings are not those of the clusters."""
        trained = len(self.classifier.weight)
        clusters = naming.clusters if naming is not None else None
        in_use = trained if clusters is None else len(clusters.weight)
        if clusters is not None and clusters.weight.shape[1] != self.classifier.weight.shape[1]:
            raise ValueError(f"{where}naming: its clusters are of another feature dimension than the trained ones")
        own = {"naming.segments": naming.segments, "naming.matching": naming.matching} if naming else {}
        lengths = {"matching": in_use, "naming.segments": in_use, "naming.matching": trained}
        for name, part in {"matching": matching, **own}.items():
            if part is not None and len(part.assignment) != lengths[name]:
                raise ValueError(f"{where}{name}: assigns {len(part.assignment)} clusters, not {lengths[name]}")


def fault(state: Any) -> str | None:
    """Describe what is wrong with the structure of a checkpoint's `state`, in one line.

    Returns None if nothing is wrong.
    """
    try:
        _Checkpoint.model_validate(state)
    except ValidationError as error:
        return validation_message(error)
    return None
