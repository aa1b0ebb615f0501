"""Scale images of more than 8 bits to 8 bits, with one scale for all images of a folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from picie.data.pixels import Pixels

MAX_PIXELS = 500_000_000
"""Default limit on the pixels of an image. Decoding takes about 4 bytes per pixel."""

Scale = tuple[float, float]
"""The values that become 0 and 255."""

_MAX_SAMPLE = 50_000  # maximum number of values per image
_PERCENTILES = (0.1, 99.9)
_MAX_MAGNITUDE = 1e15  # larger floats mark pixels without data
# common values of pixels without data, in files that do not state theirs
_NODATA = (-9999, -99999, -32768)


@dataclass(frozen=True)
class Reading:
    """How image files become 8-bit images.

    Attributes:
        scales: the scale of each `Pixels.kind`, e.g. "uint16". Images of another kind are
            scaled by their own values.
        max_pixels: images with more pixels are not read.
        bands: the bands of a TIFF, from 1, that become red, green and blue, or grey; empty uses the
            first ones.
    """

    scales: Mapping[str, Scale] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS
    bands: tuple[int, ...] = ()

    def with_scales(self, scales: Mapping[str, Scale]) -> Reading:
        """A copy with further scales; existing scales are not changed."""
        return replace(self, scales={**scales, **self.scales})


def sample(pixels: Pixels) -> np.ndarray:
    """(n,) a sample of an image's values, without those that mark missing data."""
    values: np.ndarray = pixels.values[has_data(pixels)]
    return values[:: max(1, values.size // _MAX_SAMPLE)].ravel()


def estimate(samples: Sequence[np.ndarray]) -> Scale:
    """Estimate the scale of images from a `sample` of each.

    Nonnegative integers are scaled by the smallest power of two that holds their 99.9th percentile,
    so that 12-bit data in 16 bits is not black and a few extreme pixels do not darken the rest.
    Other values are scaled from the 0.1st to the 99.9th percentile.

    >>> estimate([np.arange(4000, dtype=np.uint16)])
    (0.0, 4095.0)
    """
    values = np.concatenate([np.zeros(0), *samples]).astype(np.float64)
    if not values.size:
        return 0.0, 255.0
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if values.min() >= 0 and np.equal(values, np.floor(values)).all():
        return 0.0, 2.0 ** max(8, math.ceil(math.log2(high + 1))) - 1
    return low, high


def estimate_all(images: Iterable[Pixels]) -> dict[str, Scale]:
    """The scale of each type of stored values in `images`."""
    samples: dict[str, list[np.ndarray]] = {}
    for pixels in images:
        if pixels.values.dtype != np.uint8:
            samples.setdefault(pixels.kind, []).append(sample(pixels))
    return {name: estimate(parts) for name, parts in sorted(samples.items())}


def to_8_bits(pixels: Pixels, scales: Mapping[str, Scale]) -> np.ndarray:
    """The values of `pixels` as uint8; pixels without data become black."""
    values, dtype = pixels.values, pixels.values.dtype
    if dtype == np.uint8:
        scaled = values
    else:
        low, high = scales.get(pixels.kind) or estimate([sample(pixels)])
        factor = 255 / (high - low) if high > low else 0.0
        if dtype == np.uint16:
            scaled = _rescale(np.arange(2**16), low, factor)[values]
        else:
            # row by row, to save memory
            scaled = np.stack([_rescale(row, low, factor) for row in values])
    if pixels.white_is_zero:
        scaled = 255 - scaled
    if dtype != np.uint8 and not (valid := has_data(pixels)).all():
        scaled = np.where(valid, scaled, np.uint8(0))
    return scaled


def alpha_of(pixels: Pixels) -> np.ndarray | None:
    """(H, W) float32 opacity in [0, 1], or None.

    The number of bits of alpha is derived from its largest value.
    """
    if pixels.alpha is None:
        return None
    alpha = pixels.alpha.astype(np.float32)
    largest = float(alpha.max())
    full = 2.0 ** max(8, math.ceil(math.log2(largest + 1))) - 1 if pixels.alpha.dtype.kind in "ui" else max(1.0, largest)
    return np.asarray((alpha / np.float32(full)).clip(0, 1))


def _rescale(values: np.ndarray, low: float, factor: float) -> np.ndarray:
    """`values` as uint8."""
    finite = np.nan_to_num(values.astype(np.float64), nan=low, posinf=low, neginf=low)
    return ((finite - low) * factor).round().clip(0, 255).astype(np.uint8)


def has_data(pixels: Pixels) -> np.ndarray:
    """Mask of the `values` that are data: finite, and neither nodata nor one of `_NODATA`."""
    values = pixels.values
    valid = np.ones(values.shape, np.bool_)
    with np.errstate(all="ignore"):
        if values.dtype.kind == "f":
            valid &= np.abs(values) < _MAX_MAGNITUDE  # false for NaN
        if values.dtype.kind in "if":
            valid &= ~np.isin(values, np.array(_NODATA, np.float64))
        if pixels.nodata is not None and values.dtype.kind == "f":
            valid &= values != np.float64(pixels.nodata).astype(np.float32)
        elif pixels.nodata is not None and _is_stored_as(pixels.nodata, values.dtype):
            valid &= values != values.dtype.type(int(pixels.nodata))  # a float would convert all values
    if pixels.alpha is not None:
        valid &= (pixels.alpha > 0) if values.ndim == 2 else (pixels.alpha > 0)[..., None]
    return valid


def _is_stored_as(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether an integer type can hold `value`."""
    return value.is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
