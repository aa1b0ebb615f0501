"""The pictures that a `Segmenter` accepts, and results in the same form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from picie.data.arrays import picture_of
from picie.data.images import open_image
from picie.data.scaling import Reading
from picie.errors import InputError

Picture = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""One picture: a file, a Pillow image, an array (H, W[, C]) or a tensor ([C, ]H, W)."""


def open_picture(picture: Picture, reading: Reading) -> Image.Image:
    """Open a picture as 8-bit RGB.

    Arrays have their channels last, tensors first; see `picie.data.arrays.picture_of` for their
    types and ranges.

    Raises:
        UnreadableImageError: the file cannot be read as an image.
        InputError: this is not a picture.
    """
    if isinstance(picture, str | os.PathLike):
        return open_image(Path(picture), reading)
    if isinstance(picture, Tensor):
        return picture_of(_array_of(picture), reading)
    if isinstance(picture, Image.Image | np.ndarray):
        return picture_of(picture, reading)
    raise InputError(f"image: {type(picture).__name__} is not a picture; give a file, a Pillow image, an array or a tensor")


def _array_of(picture: Tensor) -> np.ndarray:
    """Return a tensor as an array with the channels last."""
    if not (picture.dim() == 2 or (picture.dim() == 3 and len(picture) in {1, 3, 4})):
        last = "; its channels come last: image.permute(2, 0, 1) moves them" if picture.shape[-1:] in {(1,), (3,)} else ""
        raise InputError(
            f"image: a tensor of {picture.dtype} {tuple(picture.shape)} is not a picture; give (3, H, W), (1, H, W) or (H, W), "
            f"of uint8, uint16 or floats in [0, 1], or a batch of them{last}"
        )
    plain = picture.detach().as_subclass(Tensor).cpu()
    array: np.ndarray = (plain.float() if plain.is_floating_point() else plain).numpy()
    return array if array.ndim == 2 else array.transpose(1, 2, 0)


def for_each(images: Any, batch_size: int, results: Callable[[list[Picture]], Iterable[Any]]) -> Any:
    """Apply `results` to one picture, or to several in batches.

    Args:
        images: a picture; a list or tuple of pictures; or an array (B, H, W, C) or tensor
            (B, C, H, W) of pictures of one size.
        batch_size: the largest number of pictures in a call.
        results: returns the result of each picture of a list.

    Returns:
        The result of one picture; a list of results; or for an array or tensor of pictures, the
        results stacked in the same way, if they are arrays or tensors.
    """
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: give a number of pictures from 1 up")
    stacked = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
    if not (stacked or isinstance(images, list | tuple)):
        (result,) = results([images])
        return result
    listed = [result for batch in _batches(images, batch_size) for result in results(batch)]
    if stacked and listed and isinstance(listed[0], Tensor):
        return torch.stack(listed)
    return np.stack(listed) if stacked and listed and isinstance(listed[0], np.ndarray) else listed


def _batches(images: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch


def as_given(result: Tensor, picture: Picture, mask: bool = False) -> Any:
    """Return a result in the form of its picture: a tensor for a tensor, otherwise an array.

    A tensor is on the device of the picture. For a `torchvision.tv_tensors.Image`, a label map
    (`mask`) is a `tv_tensors.Mask`. int32 labels become uint16 in an array.
    """
    if not isinstance(picture, Tensor):
        array = result.cpu().numpy()
        return array.astype(np.uint16) if array.dtype == np.int32 else array
    # A clone can be used in training, which a tensor of inference mode cannot.
    result = result.to(picture.device).clone()
    if mask and type(picture) is not Tensor:
        from torchvision import tv_tensors  # takes a second, and only its own images need it

        if isinstance(picture, tv_tensors.Image):
            return tv_tensors.Mask(result)
    return result
