"""Read images of any kind as 8-bit RGB, and label maps as stored."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from picie.data.color_profiles import to_srgb
from picie.data.formats import DECODERS, HEIF_SUFFIXES, open_with_pillow, without_limit
from picie.data.label_coding import read_stored
from picie.data.pixels import Header, Pixels, as_stored, decode, read_header
from picie.data.raster_files import LARGE, open_raster
from picie.data.remarks import MORE_BANDS
from picie.data.scaling import Reading, Scale, alpha_of, estimate_all, to_8_bits
from picie.errors import InputError, UnreadableImageError

DEFAULT_READING = Reading()

_DEEP_SUFFIXES = frozenset(
    {".png", ".apng", ".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm"}
) | {".pnm", ".pfm", ".sgi", ".rgb", ".rgba", ".bw"}
_MAX_HEADERS, _MAX_MEASURED = 2048, 32  # maximum numbers of files
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by its EXIF orientation."""


def open_image(path: Path, reading: Reading = DEFAULT_READING) -> Image.Image:
    """Read an image as 8-bit RGB: upright, in sRGB, with transparency over white.

    Images of more than 8 bits are scaled by `reading.scales`, or by their own values. Only the
    first page or frame is used.

    Returns:
        The image. Its `info["notes"]` is a tuple that names what was not used: further pages,
        further bands.

    Raises:
        UnreadableImageError: not a regular file, not an image, damaged, or more than
            `reading.max_pixels`.
    """
    return read_image(lambda: open_file(path), str(path), reading)


def read_image(opener: Callable[[], BinaryIO], source: str, reading: Reading) -> Image.Image:
    """As `open_image`, for an image that `opener` opens and that messages call `source`."""
    try:
        with opener() as file:
            return _read(file, reading)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{source}: no such file; check the path") from error
    except Exception as error:  # a decoder may raise anything for a damaged file
        advice = "replace or remove it"
        if Path(source).suffix.lower() in HEIF_SUFFIXES and "HEIF" not in DECODERS:
            advice = "install picie[heic], or convert it to JPEG"
        elif isinstance(error, _RefusedError) and "limit" in str(error):
            advice = "raise data.max_pixels (picie predict: --max-pixels), or reduce the image"
        elif "is not supported" in str(error):
            advice = "save it as PNG or TIFF"
        raise UnreadableImageError(f"{source}: cannot be read as an image ({_reason(error)}); {advice}") from error


def decode_image(data: bytes, reading: Reading) -> Image.Image:
    """Decode an image from an untrusted source, as `open_image` does.

    The number of pixels is read from the header, so a small file that expands to gigabytes is
    refused before it is decoded. Raises `UnreadableImageError`.
    """
    try:
        return _read(io.BytesIO(data), reading)
    except Exception as error:  # a decoder may raise anything for a damaged file
        raise UnreadableImageError(f"this cannot be read as an image ({_reason(error)}); give another") from error


def open_or_error(path: Path, reading: Reading = DEFAULT_READING) -> Image.Image | UnreadableImageError:
    """As `open_image`, but returns the error, for threads that read ahead of the consumer."""
    try:
        return open_image(path, reading)
    except UnreadableImageError as error:
        return error


def measure_scales(paths: Sequence[Path], reading: Reading = DEFAULT_READING) -> dict[str, Scale]:
    """One scale for each type of stored values of more than 8 bits, from a sample of the files.

    At most 2,048 headers are read, and at most 32 images decoded, both evenly spaced.
    """
    deep = [path for path in deep_files(paths, _MAX_HEADERS) if _is_deep(path, reading)]
    measured = _spaced(deep, _MAX_MEASURED)
    return estimate_all(pixels for path in measured if (pixels := _pixels_or_none(path, reading)) is not None)


class _Named(Protocol):
    @property
    def suffix(self) -> str: ...


N = TypeVar("N", bound=_Named)


def deep_files(files: Sequence[N], n: int = _MAX_MEASURED) -> list[N]:
    """At most `n` of the files whose format may have more than 8 bits, evenly spaced."""
    return _spaced([file for file in files if file.suffix.lower() in _DEEP_SUFFIXES], n)


def _spaced(paths: Sequence[N], n: int) -> list[N]:
    """At most `n` of `paths`, evenly spaced."""
    return [paths[i * len(paths) // n] for i in range(n)] if len(paths) > n else list(paths)


def _is_deep(path: Path, reading: Reading) -> bool:
    try:
        with open_file(path) as file:
            header = read_header(file)
    except Exception:  # reported when the image is read
        return False
    if header.bits <= 8:
        return False
    return header.size[0] * header.size[1] <= reading.max_pixels or open_raster(path, reading) is not None


def _pixels_or_none(path: Path, reading: Reading) -> Pixels | None:
    try:
        with open_file(path) as file:
            header = read_header(file)
            at_once = min(LARGE, reading.max_pixels)
            if header.size[0] * header.size[1] > at_once and (raster := open_raster(path, reading)) is not None:
                return raster.sample()
            return decode(file, header, reading.bands)
    except Exception:  # reported when the image is read
        return None


class _RefusedError(Exception):
    """The reason why a file is not decoded."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; opening a named pipe would block forever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise _RefusedError("it is not a regular file")
    return path.open("rb")


def _read(file: BinaryIO, reading: Reading) -> Image.Image:
    """Decode an image; may raise any exception."""
    header = read_header(file)
    height, width = header.size
    if height * width > reading.max_pixels:
        raise _RefusedError(f"it has {width} x {height} pixels; the limit is {reading.max_pixels / 1e6:g} megapixels")
    pixels = decode(file, header, reading.bands)
    notes = [f"{header.pages} pages"] if header.pages > 1 else []
    if pixels is None:
        file.seek(0)
        with without_limit(), open_with_pillow(file) as image:  # a TIFF is checked again by `load`
            image.load()
            rgb = to_rgb(upright(image))
    else:
        rgb = compose(pixels, reading)
        notes += [MORE_BANDS] if pixels.more_bands else []
    rgb.info = {"notes": tuple(notes)}
    return rgb


def compose(pixels: Pixels, reading: Reading) -> Image.Image:
    """The upright RGB image of decoded pixels."""
    values = to_8_bits(pixels, reading.scales)
    mode = "L" if values.ndim == 2 else "RGB" if values.shape[2] == 3 else "CMYK"
    color = to_srgb(Image.fromarray(np.ascontiguousarray(values), mode), pixels.profile)
    opacity = alpha_of(pixels)
    if opacity is not None:
        over = np.asarray(color, np.float32) * (1 if pixels.premultiplied else opacity[..., None])
        color = Image.fromarray((over + 255 * (1 - opacity[..., None])).round().clip(0, 255).astype(np.uint8))
    operation = TRANSPOSES.get(pixels.orientation)
    return color if operation is None else color.transpose(operation)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return " ".join(text.split())[:200]


def upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation.

    Unlike Pillow's `exif_transpose`, which always copies, it returns `image` itself if that is
    upright, and keeps the EXIF data.
    """
    operation = TRANSPOSES.get(image.getexif().get(0x0112, 1))
    return image if operation is None else image.transpose(operation)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to 8-bit RGB in sRGB, with transparency over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(to_8_bits(Pixels(as_stored(np.asarray(image))), {})).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if profile:
            opaque = to_srgb(rgba.convert("RGB"), profile)
            opaque.putalpha(rgba.getchannel("A"))
            rgba = opaque
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    if profile and image.mode in {"RGB", "L", "CMYK"}:
        return to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def open_label(path: Path) -> np.ndarray:
    """Read a label map, (H, W) integers: the stored values of a grey or palette image or .npy file.

    Raises:
        InputError: the file cannot be read, or contains colours instead of indices.
    """
    return read_stored(path)[0]


def open_label_of(image: Path, path: Path) -> np.ndarray:
    """Read a label map as `open_label` does, and check that it has the size of the image.

    Raises:
        InputError: there is no such file, it is not a label map, or it has another size.
        UnreadableImageError: the image cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no label for image {image}; add it or remove the image")
    label = open_label(path)
    check_label_size(label, path, image)
    return label


def check_label_size(label: np.ndarray, path: Path, image: Path) -> None:
    """Raise `InputError` unless the `label` read from `path` has the size of the image."""
    size = image_size(image)
    if label.shape != size:
        raise InputError(
            f"{path}: label is {label.shape[1]}x{label.shape[0]} but its image {image} is {size[1]}x{size[0]}; "
            "make them the same size"
        )


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of the upright image, read from its header. Raises `UnreadableImageError`."""
    header = _header(path)
    height, width = header.size
    return (width, height) if header.orientation >= 5 else (height, width)


def decoding_bytes(path: Path) -> int:
    """Memory in bytes that decoding an image takes, from its header; 0 if it is unreadable."""
    try:
        header = _header(path)
    except UnreadableImageError:
        return 0
    return header.decoding_bytes * header.size[0] * header.size[1]


def _header(path: Path) -> Header:
    try:
        with open_file(path) as file:
            return read_header(file)
    except Exception as error:  # a decoder may raise anything for a damaged file
        raise UnreadableImageError(f"{path}: cannot be read as an image ({_reason(error)})") from error


def centre_frame(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Crop the largest centre part with the aspect ratio of `size` (H, W), and resize it.

    Uses antialiasing. For a square this equals resizing the short side and then cropping the
    centre, but is cheaper.

    Returns:
        (3, H, W) uint8.
    """
    top, left, height, width = centre_box(image.height, image.width, size)
    box = (left, top, left + width, top + height)
    frame = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(frame).transpose(2, 0, 1))


def centre_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop a label map as `centre_frame` does, and resize it to `size` by nearest neighbour."""
    top, left, height, width = centre_box(label.shape[0], label.shape[1], size)
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * (height / size[0])).astype(int)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * (width / size[1])).astype(int)
    part: np.ndarray = label[np.ix_(rows.clip(0, label.shape[0] - 1), columns.clip(0, label.shape[1] - 1))]
    return part


def centre_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
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
