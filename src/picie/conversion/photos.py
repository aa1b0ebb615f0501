"""The photos of a training dataset: linked, copied, or written as JPEG where tools cannot read them."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from picie.conversion.base import Picture
from picie.data.images import open_image
from picie.errors import InputError

_READABLE = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}
_MODES = {"L", "RGB", "P", "RGBA"}
_QUALITY = 95
_ORIENTATION = 0x0112  # of EXIF


@dataclass(frozen=True)
class Photo:
    """How a photo comes into a dataset.

    Attributes:
        suffix: the ending of its name.
        source: the file to link or copy.
        link: whether to link it.
        data: the content to write instead of `source`, or None.
    """

    suffix: str
    source: Path
    link: bool
    data: bytes | None = None


def photo_for(picture: Picture, how: Literal["link", "copy", "none"], jpeg: bool = False) -> Photo | None:
    """Choose how a photo comes into a dataset.

    A photo of 8 bits, upright as stored, in a format that training tools read is linked or copied.
    Any other is converted to an upright JPEG, so that its pixels are those of the label map.

    Args:
        picture: the predicted image.
        how: "link", "copy" or "none".
        jpeg: convert other formats than JPEG, too.

    Returns:
        None for "none".

    Raises:
        InputError: the photo is missing or unreadable, or has another size than the label map.
    """
    if how == "none":
        return None
    source = picture.source
    if not source.is_file():
        raise InputError(f"{source}: is no longer there; put it back, or convert with --photos none")
    if _is_usable(source, jpeg):
        return Photo(".jpg" if jpeg else source.suffix.lower(), source, how == "link")
    image = open_image(source)
    if image.size != (picture.width, picture.height):
        raise InputError(f"{source}: has another size than its label map {picture.map_file}; predict it again")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return Photo(".jpg", source, False, file.getvalue())


def _is_usable(source: Path, jpeg: bool) -> bool:
    kind = _READABLE.get(source.suffix.lower())
    if kind is None or (jpeg and kind != "JPEG"):
        return False
    try:
        with Image.open(source) as image:
            return image.format == kind and image.mode in _MODES and image.getexif().get(_ORIENTATION, 1) == 1
    except OSError:
        return False


def place_photo(photo: Photo, target: Path) -> None:
    """Link, copy or write a photo. Raises `OSError`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if photo.data is not None:
        target.write_bytes(photo.data)
    elif not (photo.link and _link(photo.source, target)):
        shutil.copyfile(photo.source, target)


def _link(source: Path, target: Path) -> bool:
    """Make a symbolic link; return False where the system has none, e.g. Windows without the right."""
    try:
        os.symlink(source, target)
    except (OSError, NotImplementedError):
        return False
    return True
