"""Read images of any kind as 8-bit RGB, and label maps as stored."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from picie.errors import InputError, UnreadableImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})
_MARKERS = ("run.json", "predictions.json")  # a folder with one of these contains picie's output, not input
_UPLOADED = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # no format that runs another program
_DECODER_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # raised by Pillow


def find_images(root: Path) -> list[Path]:
    """All image files below `root`, sorted by path, except hidden ones and picie's own output.

    Links to folders are followed; each folder is searched once.
    """
    images = []
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
        images += [folder / file for file in files if _is_image_name(file)]
    return sorted(images)


def _is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def open_image(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB: upright (EXIF), with transparency over white.

    Greyscale of more than 8 bits is scaled by the smallest power of two that holds its maximum, so
    that 10- or 12-bit data stored in 16 bits is not black. Of an animation the first frame is
    used.

    Raises:
        UnreadableImageError: the file cannot be opened or decoded, or exceeds Pillow's limit on
            pixels.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except _DECODER_ERRORS as error:
        reason = "it has too many pixels" if isinstance(error, Image.DecompressionBombError) else _reason(error)
        raise UnreadableImageError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from error


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode an image from an untrusted source, as `open_image` does.

    The number of pixels is read from the header, so a small file that expands to gigabytes is
    refused before it is decoded.

    Raises:
        UnreadableImageError: not an image of a common format, damaged, or more than `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_UPLOADED) as image:
            if image.width * image.height > max_pixels:
                raise UnreadableImageError(
                    f"the image has {image.width} x {image.height} pixels; the limit is {max_pixels / 1e6:g} megapixels"
                )
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except _DECODER_ERRORS as error:
        reason = "it has too many pixels" if isinstance(error, Image.DecompressionBombError) else _reason(error)
        raise UnreadableImageError(f"this cannot be read as an image ({reason}); give another") from error


def open_or_error(path: Path) -> Image.Image | UnreadableImageError:
    """As `open_image`, but returns the error, for threads that read ahead of the consumer."""
    try:
        return open_image(path)
    except UnreadableImageError as error:
        return error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to 8-bit RGB."""
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
    """(H, W) uint8 from wider integers (see `open_image`), or from floats by their range."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or not np.equal(values, np.floor(values)).all():
        span = high - low
        return ((values - low) * (255 / span if span > 0 else 0)).round().astype(np.uint8)
    bits = max(8, math.ceil(math.log2(high + 1))) if high > 0 else 8
    scaled: np.ndarray = (values * (255 / (2**bits - 1))).round().astype(np.uint8)
    return scaled


def open_label(path: Path) -> np.ndarray:
    """Read a label map, (H, W) integers: the stored values of a grey or palette PNG.

    Raises:
        InputError: the file cannot be read, or contains colours instead of indices.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in {"L", "P", "1", "I", "I;16", "I;16B"}:
                raise InputError(f"{path}: contains colours (mode {image.mode}), not class indices; save it as an index PNG")
            return np.asarray(image).astype(np.uint8) if image.mode == "1" else np.asarray(image)
    except _DECODER_ERRORS as error:
        raise InputError(f"{path}: cannot be read as a label map ({_reason(error)})") from error


def open_label_of(image: Path, path: Path) -> np.ndarray:
    """Read a label map as `open_label` does, and check that it has the size of the image.

    Raises:
        InputError: there is no such file, it is not a label map, or it has another size.
        UnreadableImageError: the image cannot be read.
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
    """(H, W) of the upright image, read from its header. Raises `UnreadableImageError`."""
    try:
        with Image.open(path) as image:
            # Pillow rotates TIFFs itself, when opening or when loading, depending on its version;
            # the tags contain the stored size
            width, height = (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
            rotated = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5-8 swap rows and columns
    except _DECODER_ERRORS as error:
        raise UnreadableImageError(f"{path}: cannot be read as an image ({_reason(error)})") from error
    return (width, height) if rotated else (height, width)


def pixel_bytes(path: Path) -> int:
    """The memory that the decoded image takes, in bytes, by its header; 0 if it is unreadable."""
    try:
        height, width = image_size(path)
    except UnreadableImageError:
        return 0
    return 4 * height * width


def centre_frame(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Crop the largest centre part with the aspect ratio of `size` (H, W), and resize it.

    Uses antialiasing. For a square this equals resizing the short side and then cropping the
    centre, but is cheaper.

    Returns:
        (3, H, W) uint8.
    """
    top, left, height, width = _centre_box(image.height, image.width, size)
    box = (left, top, left + width, top + height)
    frame = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(frame).transpose(2, 0, 1))


def centre_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop a label map as `centre_frame` does, and resize it to `size` by nearest neighbour."""
    top, left, height, width = _centre_box(label.shape[0], label.shape[1], size)
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * (height / size[0])).astype(int)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * (width / size[1])).astype(int)
    part: np.ndarray = label[np.ix_(rows.clip(0, label.shape[0] - 1), columns.clip(0, label.shape[1] - 1))]
    return part


def _centre_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(top, left, height, width) of the largest centre part with the aspect ratio of `size`."""
    box_height, box_width = min(height, width * size[0] / size[1]), min(width, height * size[1] / size[0])
    return (height - box_height) / 2, (width - box_width) / 2, box_height, box_width


def whole_size(height: int, width: int, short: int, max_long: int = 4096) -> tuple[int, int]:
    """(H, W) with the same aspect ratio, short side `short` and long side at most `max_long`.

    The limit prevents thin strips (a scan line, a panorama) from needing gigabytes of memory;
    common images are far below it.
    """
    scale = min(short / min(height, width), max_long / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
