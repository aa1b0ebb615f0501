"""Pictures in memory, as arrays or Pillow images, as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from picie.data.images import compose, to_rgb, upright
from picie.data.pixels import Pixels, as_stored
from picie.data.scaling import Reading
from picie.errors import InputError

_TOLERANCE = 1e-3  # resizing by interpolation leaves [0, 1] by about this much
_ADVICE = "give (H, W), (H, W, 3) or (H, W, 4), of uint8, uint16 or floats in [0, 1]"


def picture_of(image: Image.Image | np.ndarray, reading: Reading) -> Image.Image:
    """Convert a picture to 8-bit RGB: upright, in sRGB, with transparency over white.

    Args:
        image: a Pillow image of any mode, whose values of more than 8 bits are scaled as those of
            a file are; or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of grey, RGB or RGB
            with opacity. Its values are uint8; uint16, scaled as the training images of that type
            were, otherwise by their own range; or floats in [0, 1], unless the training images
            were floats in another range.
        reading: how the training images were read.

    Raises:
        InputError: the array has another shape, dtype or range.
    """
    if isinstance(image, Image.Image):
        image = upright(image)
        if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits
            return compose(Pixels(as_stored(np.asarray(image)), profile=image.info.get("icc_profile")), reading)
        return to_rgb(image)
    values = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if not values.size or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in {3, 4})):
        last = "; its channels come first: image.transpose(1, 2, 0) moves them" if image.shape[:1] in {(1,), (3,)} else ""
        raise InputError(f"image: an array of {image.dtype} {image.shape} is not a picture; {_ADVICE}{last}")
    if values.dtype == np.uint8:
        return to_rgb(Image.fromarray(np.ascontiguousarray(values)))
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
        if "float32" not in reading.scales:
            _check_range(values)
            reading = reading.with_scales({"float32": (0.0, 1.0)})
    elif values.dtype != np.uint16:
        raise InputError(f"image: an array of {image.dtype} {image.shape} is not a picture; {_ADVICE}")
    pixels = Pixels(values) if values.ndim == 2 or values.shape[2] == 3 else Pixels(values[..., :3], values[..., 3])
    return compose(pixels, reading)


def _check_range(values: np.ndarray) -> None:
    """Raise `InputError` if finite floats lie outside of [0, 1]."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise InputError(
            f"image: floats from {low:.4g} to {high:.4g}; give values in [0, 1], before any normalisation, or convert "
            "them to uint8"
        )
