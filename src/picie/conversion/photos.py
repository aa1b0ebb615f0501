"""The photos of a training dataset: linked, copied, or written as JPEG where tools cannot read them."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from picie.conversion.base import Picture
from picie.data.formats import open_with_pillow
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
    if not picture.photo.endswith(source.name):
        raise InputError(f"{picture.photo}: is a frame of a file, which is not written as a photo; convert with --photos none")
    if not source.is_file():
        raise InputError(f"{source}: is no longer there; put it back, or convert with --photos none")
    if _is_usable(picture, jpeg):
        return Photo(".jpg" if jpeg else source.suffix.lower(), source, how == "link")
    image = open_image(source)
    _check_size(picture, image)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return Photo(".jpg", source, False, file.getvalue())


def _is_usable(picture: Picture, jpeg: bool) -> bool:
    """Whether training tools read the photo as picie does."""
    kind = _READABLE.get(picture.source.suffix.lower())
    if kind is None or (jpeg and kind != "JPEG"):
        return False
    try:
        with open_with_pillow(picture.source) as image:
            usable = image.format == kind and image.mode in _MODES and image.getexif().get(_ORIENTATION, 1) == 1
    except Exception:  # a decoder may raise anything for a damaged file; reported when the photo is converted
        return False
    if usable:
        _check_size(picture, image)
    return usable


def _check_size(picture: Picture, image: Image.Image) -> None:
    if image.size != (picture.width, picture.height):
        raise InputError(f"{picture.source}: has another size than its label map {picture.map_file}; predict it again")


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
        target.symlink_to(source)
    except OSError:
        return False
    return True
