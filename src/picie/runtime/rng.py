"""Stateless random numbers: each depends only on (seed, epoch, image, purpose).

No generator state has to be stored. The clustering, labelling and training passes of an epoch
request the same numbers and receive them, in any order, with any number of workers, and after
resuming.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import random
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

# SplitMix64 (Steele, Lea, Flood 2014): increment and the two mixing constants.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply SplitMix64's finaliser: a bijection of uint64 that mixes all bits."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


@functools.lru_cache
def _word(part: int | str) -> np.ndarray:
    """(1,) uint64 that represents `part` of a key.

    It is an array because NumPy warns of overflow in scalars.
    """
    word = zlib.crc32(part.encode()) + (1 << 40) if isinstance(part, str) else part
    return _mix(np.array([word & (2**64 - 1)], dtype=np.uint64) + _GOLDEN)


def _fold(state: np.ndarray, part: int | str) -> np.ndarray:
    return _mix(state + _GOLDEN ^ _word(part))


class ImageRNG:
    """Random numbers for a batch of images, with an independent stream for each image.

    Args:
        key: The purpose of the numbers, e.g. (seed, epoch, "equivariance").
        indices: B image indices in the dataset.

    The n-th call of `uniform` with equal `key` and index returns the same number; images do not
    influence each other.

    >>> a = ImageRNG((0, 3, "demo"), [5, 9]).uniform()
    >>> b = ImageRNG((0, 3, "demo"), [9]).uniform()
    >>> bool(a[1] == b[0])
    True
    """

    def __init__(self, key: Sequence[int | str], indices: Sequence[int] | np.ndarray) -> None:
        state = np.zeros(1, dtype=np.uint64)
        for part in key:
            state = _fold(state, part)
        self._state = _mix(_mix(np.asarray(indices, dtype=np.uint64) * _GOLDEN + _GOLDEN) + state)
        self._calls = 0

    def __len__(self) -> int:
        return len(self._state)

    def child(self, name: str) -> ImageRNG:
        """Return independent streams for `name`.

        Adding a transform therefore does not change the numbers of the others.
        """
        rng = copy.copy(self)
        rng._state, rng._calls = _fold(self._state, name), 0
        return rng

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Return (B,) float64 values, uniform in [low, high)."""
        self._calls += 1
        bits = _mix(self._state + np.uint64(int(_GOLDEN) * self._calls & 2**64 - 1))
        return low + (high - low) * ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def derived_seed(*key: int | str) -> int:
    """Return a seed in [0, 2**53) for a library generator, from e.g. (seed, epoch, "kmeans")."""
    return int(ImageRNG(key, [0]).uniform()[0] * 2**53)


def permutation(n: int, *key: int | str) -> np.ndarray:
    """Return (n,) int64, the order in which images are visited; it depends only on `key`."""
    return np.argsort(ImageRNG(key, np.arange(n)).uniform(), kind="stable")


@contextlib.contextmanager
def preserved_global_state(device: str = "cpu") -> Iterator[None]:
    """Restore the global generators of `random`, NumPy and torch when the block ends.

    A new network draws its weights, and some networks their noise, from torch's global generators,
    which belong to the caller. `device` is where the block computes, as in `run.device`.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the caller may use it
    cuda = torch.cuda.is_initialized() or (device.startswith(("auto", "cuda")) and torch.cuda.is_available())
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else ()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if mps is not None:
            torch.mps.set_rng_state(mps)
