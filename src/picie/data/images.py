"""Reading pictures of any kind as 8-bit RGB, and index maps as they are."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from picie.errors import InputError, UnreadableImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})
_MARKERS = ("run.json", "predictions.json")  # a folder with one of these holds picie's output, not input
_WRONG_CONTENT = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what Pillow raises


def find_images(root: Path) -> list[Path]:
    """All image files below `root`, sorted by path; hidden files and folders and picie's own output are passed over.

    Links to folders are followed, each folder once.
    """
    found = []
    visited = set()
    for name, folders, files in os.walk(root, followlinks=True):
        folder, real = Path(name), os.path.realpath(name)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        if folder != root and any(marker in files for marker in _MARKERS):
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [folder / file for file in files if _is_image_name(file)]
    return sorted(found)


def _is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def open_image(path: Path) -> Image.Image:
    """The picture at `path` as it is meant to be seen: RGB, 8 bits, upright (EXIF), transparency over white.

    Greyscale of more than 8 bits is scaled by the power of two that its brightest value needs, so that 10- or 12-bit data
    stored in 16 bits does not come out black. Of a sequence the first frame is taken.

    Raises:
        UnreadableImageError: the file cannot be opened or decoded, or has more pixels than Pillow deems safe.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except _WRONG_CONTENT as error:
        reason = "it has too many pixels" if isinstance(error, Image.DecompressionBombError) else _reason(error)
        raise UnreadableImageError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from error


def open_or_error(path: Path) -> Image.Image | UnreadableImageError:
    """As `open_image`, with the error returned: in a thread that reads ahead it must wait for its turn."""
    try:
        return open_image(path)
    except UnreadableImageError as error:
        return error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """(H, W) uint8 from integers of more bits (see `open_image`) or, over their own range, from floats."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or not np.equal(values, np.floor(values)).all():
        span = high - low
        return ((values - low) * (255 / span if span > 0 else 0)).round().astype(np.uint8)
    bits = max(8, math.ceil(math.log2(high + 1))) if high > 0 else 8
    scaled: np.ndarray = (values * (255 / (2**bits - 1))).round().astype(np.uint8)
    return scaled


def open_label(path: Path) -> np.ndarray:
    """The index map at `path`, (H, W) integers: the stored values of a grey or palette PNG, not their colours.

    Raises:
        InputError: the file cannot be read, or it holds colours rather than indices.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in {"L", "P", "1", "I", "I;16", "I;16B"}:
                raise InputError(f"{path}: holds colours (mode {image.mode}), not class indices; save it as an index PNG")
            return np.asarray(image).astype(np.uint8) if image.mode == "1" else np.asarray(image)
    except _WRONG_CONTENT as error:
        raise InputError(f"{path}: cannot be read as a label map ({_reason(error)})") from error


def open_label_of(image: Path, path: Path) -> np.ndarray:
    """The index map at `path` as of `open_label`, which must have the size of the image at `image`, (H, W).

    Raises:
        InputError: there is no such file, it is no index map, or it has another size.
        UnreadableImageError: it is the image that cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no label for image {image}; add it or remove the image")
    label, size = open_label(path), image_size(image)
    if label.shape != size:
        raise InputError(
            f"{path}: label is {label.shape[1]}x{label.shape[0]} but its image {image} is {size[1]}x{size[0]}; "
            "make them the same size"
        )
    return label


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as seen upright, from its header alone. Raises `UnreadableImageError`."""
    try:
        with Image.open(path) as image:
            # Pillow turns a TIFF by itself, its size on opening or on loading, by version; its tags say how it is stored
            width, height = (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5-8 exchange rows and columns
    except _WRONG_CONTENT as error:
        raise UnreadableImageError(f"{path}: cannot be read as an image ({_reason(error)})") from error
    return (width, height) if turned else (height, width)


def centre_frame(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(3, H, W) uint8: the largest centre part of an RGB `image` that has the shape of `size` (H, W), resized to it.

    With antialiasing, and for a square the same as resizing the short side and cropping the centre, without making the pixels
    that are cropped.
    """
    top, left, height, width = _centre_box(image.height, image.width, size)
    box = (left, top, left + width, top + height)
    frame = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(frame).transpose(2, 0, 1))


def centre_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`size` (H, W): the same part of a label map as `centre_frame`'s, each cell from the pixel that its centre falls in."""
    top, left, height, width = _centre_box(label.shape[0], label.shape[1], size)
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * (height / size[0])).astype(int)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * (width / size[1])).astype(int)
    part: np.ndarray = label[np.ix_(rows.clip(0, label.shape[0] - 1), columns.clip(0, label.shape[1] - 1))]
    return part


def _centre_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(top, left, height, width) in pixels of the largest centre part of `height` x `width` with the shape of `size`."""
    tall, wide = min(height, width * size[0] / size[1]), min(width, height * size[1] / size[0])
    return (height - tall) / 2, (width - wide) / 2, tall, wide


def whole_size(height: int, width: int, short: int, longest: int = 4096) -> tuple[int, int]:
    """(H, W) with the short side at `short` and the shape kept, the long side bounded by `longest`.

    The bound keeps strips (a scan line, a panorama) from asking for gigabytes; it is far above any usual picture.
    """
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
