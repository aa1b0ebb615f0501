"""Mutations of bytes, of nested values, and of option strings, all drawn from a numpy generator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

Rng = np.random.Generator
Place = tuple[Any, Any]  # (a dictionary or list, a key or index in it)

PLAIN_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, -(2**63), 10**20, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "é\u0000\n",
    "../../x", "1", [], [1], [[]], ["a", 1, None], {}, {"a": {"b": []}}, "x" * 5000,
)  # fmt: skip

OPTION_VALUES = (
    "", " ", "0", "1", "2", "-1", "0.5", "1e-30", "1e30", "1e308", "nan", "inf", "-inf", "true", "false", "none",
    "[]", "[1]", "{}",
    "{a=1}", "[[1,2],[3]]", '"', "'x", "é", "2147483648", "1000000000", "99999999999999999999", "x:y", "a:b:c", "../x",
    "x" * 3000,
    "auto", "[nan]", "crop,crop", "1_000", "0x10", "1970-01-01", '{name="blur"}', "[{name=1}]", "[{}]",
)  # fmt: skip


def change_bytes(content: bytes, rng: Rng) -> bytes:
    """Damage a file: flip, insert, cut, repeat or blank a few bytes, one to three times."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        size = max(1, len(data))
        at, length = int(rng.integers(0, size)), int(rng.integers(1, max(2, min(64, size))))
        kind = int(rng.integers(0, 7))
        if kind == 0:  # flip bits in the header
            for i in rng.integers(0, min(size, 64), 3):
                data[i : i + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:  # flip bits anywhere
            for i in rng.integers(0, size, 8):
                data[i : i + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        elif kind == 5:
            data[at : at + length] = bytes([int(rng.choice([0, 255]))]) * length
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


def change_values(values: Any, rng: Rng, odd: tuple[Any, ...] = PLAIN_VALUES) -> Any:
    """A copy of nested dictionaries and lists in which one to three entries are replaced, removed or renamed."""
    values = copy.deepcopy(values)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(values))
        if not places:
            return values
        holder, key = places[int(rng.integers(0, len(places)))]
        kind = int(rng.integers(0, 6))
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif kind == 2:
            holder[key] = copy.deepcopy(holder[next(iter(holder))] if isinstance(holder, dict) else holder[0])
        elif isinstance(holder[key], torch.Tensor):
            holder[key] = change_tensor(holder[key], rng)
        else:
            holder[key] = copy.deepcopy(odd[int(rng.integers(0, len(odd)))])
    return values


def _places(values: Any) -> Iterator[Place]:
    """Every entry of nested dictionaries and lists."""
    keys: Any = list(values) if isinstance(values, Mapping) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key
        yield from _places(values[key])


_TENSOR_CHANGES: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda t: t.flatten()[:1],
    lambda t: t[..., None],
    lambda t: t.new_zeros(0),
    lambda t: torch.zeros(3, 5),
    lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t - 10**6,
    lambda t: torch.full_like(t, torch.inf) if t.is_floating_point() else t + 10**6,
    lambda t: t.to(torch.int64),
    lambda t: t.to(torch.complex64),
    lambda t: t.to(torch.float64),
    lambda t: t.to_sparse() if t.dim() else t,
    lambda t: t.to("meta"),
    lambda t: torch.zeros(1).expand(10**13),
    lambda t: t.tolist(),
    lambda t: None,
)


def change_tensor(tensor: torch.Tensor, rng: Rng) -> Any:
    """A tensor of another shape, type or values, or no tensor."""
    return _TENSOR_CHANGES[int(rng.integers(0, len(_TENSOR_CHANGES)))](tensor)
