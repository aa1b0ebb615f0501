"""Random damage to bytes, text and nested values; the same seed always does the same damage."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import torch
from torch import Tensor

WORDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 256, 65536, 2**31, 2**63, 2**80, 0.5, -0.0, 1e-300, 1e300, math.nan, math.inf, "", " ", "x",
    "0", "nan", "\x00", "é漢😀", "x" * 300, "../x", "a/b", "{", "#zzzzzz", "train", [], {}, [1], ["x"], {"x": 1}, [[]], (1, 2),
)  # fmt: skip
"""Values that stand where another was expected."""

TOKENS = (
    "=", "[", "]", "[[x]]", "{", "}", '"', "'", ",", "\n", "#", "0", "-1", "1e999", "nan", "true", '""', "[]", "\x00", "\ufeff", "é",
    "x", "99999999999999999999", "name", "[cluster]", "a.b", ":", "\\u0000",
)  # fmt: skip


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, overwritten, repeated or flipped content."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        size = rng.choice((1, 2, 4, 16, 256))
        kind = rng.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + size] = bytes(rng.randrange(256) for _ in range(size))
        elif kind == 2:
            data[at:at] = bytes(rng.randrange(256) for _ in range(size))
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at : at + size] = rng.choice((b"\x00", b"\xff")) * size
        elif kind == 5 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 6 and rng.random() < 0.2:
            data.clear()
        if rng.random() < 0.5 and len(data) > 40:  # headers are small, and decide most
            data[rng.randrange(40)] = rng.randrange(256)
    return bytes(data)


def damage_text(text: str, rng: random.Random) -> bytes:
    """Changed tokens, lines and values of a text such as TOML, JSON or JSON lines."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        lines = text.split("\n")
        at, kind = rng.randrange(len(lines)), rng.randrange(6)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, rng.choice(lines))
        elif kind == 2:
            start = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:start] + rng.choice(TOKENS) + lines[at][start + rng.randrange(3) :]
        elif kind == 3:
            separator = "=" if "=" in lines[at] else ":"
            key, found, _ = lines[at].partition(separator)
            value = rng.choice((*TOKENS, "[1, 2]", "{x = 1}", '"x"', "[" * 500, "1" * 5000))
            lines[at] = f"{key}{found} {value}"
        elif kind == 4:
            lines = lines[: rng.randrange(len(lines) + 1)]
        else:
            lines[at] = lines[at][: len(lines[at]) // 2]
        text = "\n".join(lines)
        if not text:
            break
    content = text.encode("utf-8", "surrogatepass")
    return damage_bytes(content, rng) if content and rng.random() < 0.15 else content


def damage_value(value: Any, rng: random.Random) -> Any:
    """A copy of nested dictionaries, lists and tensors with one to three places changed, removed or renamed."""
    root = {"root": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 2, 3))):
        parent, key = _place(root, rng)
        if not isinstance(parent, dict) or parent is root or rng.random() < 0.7:
            parent[key] = _changed(parent[key], rng)
        elif rng.random() < 0.6:
            del parent[key]
        else:
            parent[rng.choice(("x", 3, str(key) + "x"))] = parent.pop(key)
    return root["root"]


def _place(root: Any, rng: random.Random) -> tuple[Any, Any]:
    """A random place in nested values: (container, key). Upper levels are as likely as the many tensors below."""
    parent, key = root, "root"
    while isinstance(parent[key], dict | list) and parent[key] and (parent is root or rng.random() < 0.75):
        parent = parent[key]
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    return parent, key


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, Tensor) and rng.random() < 0.8:
        return rng.choice((
            lambda: value.flatten(), lambda: value[None], lambda: torch.zeros(0), lambda: value.double(), lambda: value.cfloat(),
            lambda: value.new_full(value.shape, float("nan")) if value.is_floating_point() else value - 9,
            lambda: value[..., :1] if value.dim() else value, lambda: value.to("meta"), lambda: value.to_sparse(),
            lambda: torch.zeros(()).expand(value.shape), lambda: value.to(torch.uint8),
        ))()  # fmt: skip
    if isinstance(value, bool) and rng.random() < 0.5:
        return not value
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((-value, value + 1, value * 1000, float(value), str(value)))
    if isinstance(value, list) and value and rng.random() < 0.5:
        return rng.choice((value[:-1], value + value, value[::-1], [value]))
    return rng.choice(WORDS)
