"""Decode images that Pillow reads wrongly: more than 8 bits per channel, or unusual TIFFs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from picie.data.formats import open_with_pillow, unsupported_kind
from picie.data.sgi import decode_sgi16, is_sgi16

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_PNM = re.compile(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3 + rb"\s")
# (photometric interpretation, samples per pixel) of TIFFs that Pillow reads correctly
_SIMPLE_TIFFS = {(0, 1), (1, 1), (2, 3), (3, 1), (5, 4), (6, 3), (8, 3)}
_PILLOW_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001}
_NODATA, _ORIENTATION, _PROFILE = 42113, 274, 34675  # TIFF tags
_OVERVIEW, _MASK = 1, 4  # bits of the TIFF tag NewSubfileType
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK = 0, 1, 2, 3, 5  # photometric interpretations
_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}  # number of colour samples
_PREMULTIPLIED, _STRAIGHT = 1, 2  # kinds of extra samples that are alpha
_ALPHA_SHARE = 0.9  # minimum share of opaque and fully transparent pixels in an alpha channel
_MAX_COUNTED_PAGES = 64


@dataclass(frozen=True)
class Pixels:
    """A decoded image of any depth.

    Attributes:
        values: (H, W) grey, (H, W, 3) RGB or (H, W, 4) CMYK, integers or floats.
        alpha: (H, W) of the same type, or None.
        premultiplied: whether `values` are multiplied by `alpha`.
        nodata: value of pixels without data; None: not stated.
        white_is_zero: whether the smallest value is white.
        orientation: EXIF orientation, 1 to 8.
        profile: ICC profile; None: not stated.
        more_bands: whether the file has further bands, which are not used.
        bits: bits per channel that the file states, if they are fewer than those of `values`; None
            otherwise.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    premultiplied: bool = False
    nodata: float | None = None
    white_is_zero: bool = False
    orientation: int = 1
    profile: bytes | None = None
    more_bands: bool = False
    bits: int | None = None

    @property
    def kind(self) -> str:
        """The type of the stored values, e.g. "uint16", or "uint12" for a file of 12 bits."""
        dtype = self.values.dtype
        fewer = self.bits is not None and dtype.kind == "u" and 8 < self.bits < 8 * dtype.itemsize
        return f"uint{self.bits}" if fewer else dtype.name


@dataclass(frozen=True)
class Header:
    """Properties of an image that are known before it is decoded.

    Attributes:
        kind: which decoder is needed; "pillow" for images of 8 bits, "deep" for Pillow's images of
            more.
        size: (H, W) as stored.
        orientation: EXIF orientation, 1 to 8.
        pages: number of pages or frames.
        bits: bits per channel that the file states; exact only if there are more than 8.
        progressive: whether it is a progressive JPEG.
        is_tiff: whether the file is a TIFF.
    """

    kind: Literal["pillow", "tiff", "png", "jpeg2000", "pnm", "sgi", "deep"]
    size: tuple[int, int]
    orientation: int = 1
    pages: int = 1
    bits: int = 8
    progressive: bool = False
    is_tiff: bool = False

    @property
    def decoding_bytes(self) -> int:
        """Memory per pixel that decoding takes."""
        pillow = 4  # also for RGB
        if self.kind == "pillow":
            return pillow + 6 * self.progressive  # libjpeg holds 3 coefficients of 2 bytes
        stored = 4 * -(-self.bits // 8)  # at most 4 channels
        return stored + 3 + pillow


def read_header(file: BinaryIO) -> Header:
    """Read the header of an image. Raises any exception of the decoders."""
    start = file.read(64)
    file.seek(0)
    if start.startswith(_TIFF):
        return _tiff_header(file)
    kind: Literal["pillow", "png", "jpeg2000", "pnm", "sgi", "deep"] = "pillow"
    match = _PNM.match(start)
    bits = 16
    if start.startswith(_PNG) and start[24] == 16:
        kind = "png"
    elif start.startswith(_JPEG2000) and (bits := _jpeg2000_depth(file)) > 8:
        kind = "jpeg2000"
    elif match and (bits := int(match[4]).bit_length()) > 8:
        kind = "pnm"
    elif is_sgi16(start):
        kind = "sgi"
    else:
        bits = 8
    with _identified(file) as image:
        # further frames are previews of the same photo in an MPO, and layers in a PSD
        pages = 1 if image.format in {"MPO", "PSD"} else getattr(image, "n_frames", 1)
        # without this test Pillow would decode the whole PNG to look for EXIF data at its end
        has_exif = image.format != "PNG" or "exif" in image.info
        orientation = _valid_orientation(image.getexif().get(_ORIENTATION) if has_exif else None)
        progressive = bool(image.info.get("progressive"))
        if kind == "pillow" and image.mode in {"I", "F"}:  # a PFM, or a PGM written as text
            kind, bits = "deep", 32
        return Header(kind, (image.height, image.width), orientation, pages, bits, progressive)


def _identified(file: BinaryIO) -> Image.Image:
    """Open an image, and name the kinds that are recognised but not supported."""
    try:
        return open_with_pillow(file)
    except UnidentifiedImageError as error:
        if (kind := unsupported_kind(file)) is not None:
            raise ValueError(f"{kind} is not supported") from error
        raise


def decode(file: BinaryIO, header: Header, bands: Sequence[int] = ()) -> Pixels | None:
    """Decode an image; None if Pillow decodes it correctly.

    Args:
        file: the file.
        header: its header.
        bands: the bands of a TIFF, from 1, to use instead of the first ones.

    Raises any exception of the decoders.
    """
    file.seek(0)
    if header.kind == "tiff" or (bands and header.is_tiff):
        return _decode_tiff(file, bands)
    if header.kind == "pillow":
        return None
    if header.kind == "deep":
        with open_with_pillow(file) as image:
            return Pixels(as_stored(np.asarray(image)))
    data = file.read()
    if header.kind == "sgi":
        return Pixels(*_split_alpha(decode_sgi16(data)))
    if header.kind == "pnm":
        match = _PNM.match(data[:256])
        assert match is not None
        shape = (int(match[3]), int(match[2])) + ((3,) if match[1] == b"6" else ())
        values = np.frombuffer(data, ">u2", int(np.prod(shape)), match.end()).reshape(shape).astype(np.uint16)
        return Pixels(values, bits=header.bits)
    file.seek(0)
    with open_with_pillow(file) as image:
        profile = image.info.get("icc_profile")
    values = imagecodecs.png_decode(data) if header.kind == "png" else imagecodecs.jpeg2k_decode(data)
    color, alpha = _split_alpha(values)
    return Pixels(color, alpha, orientation=header.orientation, profile=profile, bits=header.bits)


def as_stored(values: np.ndarray) -> np.ndarray:
    """Convert Pillow's 32-bit integers to unsigned 16 bits if all values fit."""
    return values.astype(np.uint16) if values.dtype.kind == "i" and values.min() >= 0 and values.max() < 2**16 else values


def _split_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey or RGB, and alpha, from (H, W) or (H, W, 1 to 4)."""
    if values.ndim == 2:
        return values, None
    channels = values.shape[2]
    color = values[..., 0] if channels < 3 else values[..., :3]
    return color, values[..., channels - 1] if channels in {2, 4} else None


def _jpeg2000_depth(file: BinaryIO) -> int:
    """Bits per channel, from the SIZ marker."""
    head = file.read(1 << 20)
    file.seek(0)
    at = head.find(b"\xff\x4f\xff\x51")
    return (head[at + 42] & 0x7F) + 1 if 0 <= at < len(head) - 42 else 8


def _valid_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _tiff_header(file: BinaryIO) -> Header:
    with tifffile.TiffFile(file) as tiff:
        page, pages = _main_page(tiff)
        simple = (
            page.bitspersample <= 8 and page.sampleformat == 1 and (page.photometric, page.samplesperpixel) in _SIMPLE_TIFFS
        )
        by_pillow = simple and page.compression in _PILLOW_COMPRESSIONS and page.index == 0
        size, bits = (page.imagelength, page.imagewidth), page.bitspersample
        orientation = _valid_orientation(_tag(page, _ORIENTATION))
        return Header("pillow" if by_pillow else "tiff", size, orientation, pages, bits, is_tiff=True)


def _main_page(tiff: tifffile.TiffFile) -> tuple[tifffile.TiffPage, int]:
    """The first page that is neither an overview nor a mask, and the number of such pages."""
    pages = [tiff.pages.get(i) for i in range(min(len(tiff.pages), _MAX_COUNTED_PAGES))]
    main = [page for page in pages if not page.subfiletype & (_OVERVIEW | _MASK)] or pages[:1]
    return main[0], len(main) + len(tiff.pages) - len(pages)


def _tag(page: tifffile.TiffPage, code: int) -> Any:
    tag = page.tags.get(code)
    return None if tag is None else tag.value


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise `ValueError` if a picture has more than `max_pixels`."""
    if width * height > max_pixels:
        raise ValueError(f"it has {width} x {height} pixels, more than data.max_pixels")


def tiff_pages(file: BinaryIO, max_pixels: int, bands: Sequence[int] = ()) -> Iterator[Pixels]:
    """Decode the pages of a TIFF that are neither an overview nor a mask.

    `bands` are as for `decode`. Raises `ValueError` before a page of more than `max_pixels` is
    decoded, and any exception of the decoders.
    """
    with tifffile.TiffFile(file) as tiff:
        for entry in tiff.pages:
            if not entry.subfiletype & (_OVERVIEW | _MASK):
                page = entry.aspage()
                check_pixels(page.imagewidth, page.imagelength, max_pixels)
                yield _decode_page(page, bands)


def _decode_tiff(file: BinaryIO, bands: Sequence[int]) -> Pixels:
    with tifffile.TiffFile(file) as tiff:
        return _decode_page(_main_page(tiff)[0], bands)


def _decode_page(page: tifffile.TiffPage, bands: Sequence[int]) -> Pixels:
    values = _channels_last(page)
    photometric, extra = page.photometric, [int(sample) for sample in page.extrasamples]
    orientation = _valid_orientation(_tag(page, _ORIENTATION))
    if bands:
        return Pixels(_chosen(values, bands), nodata=_nodata(page), orientation=orientation, bits=page.bitspersample)
    if photometric == _PALETTE:
        values, extra = np.take(np.asarray(page.colormap).T >> 8, values, axis=0).astype(np.uint8), []
    elif photometric not in _COLORS:
        raise ValueError(f"a TIFF with photometric interpretation {photometric} and {page.bitspersample} bits is not supported")
    channels = _COLORS.get(photometric, 3)
    if photometric == _BLACK_IS_ZERO and values.shape[2] >= 3:  # bands of a satellite image
        channels, extra = 3, []
    color, alpha = values[..., :channels], None
    if len(extra) == 1 and extra[0] in {_PREMULTIPLIED, _STRAIGHT} and _is_alpha(values[..., -1], page.is_geotiff):
        alpha = values[..., -1]
    return Pixels(
        color[..., 0] if channels == 1 else color,
        alpha,
        premultiplied=extra == [_PREMULTIPLIED],
        nodata=_nodata(page),
        white_is_zero=photometric == _WHITE_IS_ZERO,
        orientation=orientation,
        profile=_tag(page, _PROFILE),
        more_bands=values.shape[2] > channels and alpha is None,
        bits=page.bitspersample,
    )


def _chosen(values: np.ndarray, bands: Sequence[int]) -> np.ndarray:
    """(H, W) or (H, W, 3) the `bands`, from 1, of `values` (H, W, C)."""
    if max(bands) > values.shape[2]:
        raise ValueError(f"it has {values.shape[2]} bands, and band {max(bands)} is to be used")
    chosen: np.ndarray = values[..., [band - 1 for band in bands]]
    return chosen[..., 0] if len(bands) == 1 else chosen


def _channels_last(page: tifffile.TiffPage) -> np.ndarray:
    """(H, W, C) values of a page, or of the first plane of a volume."""
    values: np.ndarray = page.asarray()
    axes = page.axes
    while "Z" in axes:
        values, axes = values.take(0, axes.index("Z")), axes.replace("Z", "", 1)
    if axes == "SYX":
        values, axes = np.moveaxis(values, 0, -1), "YXS"
    if axes not in {"YX", "YXS"}:
        raise ValueError(f"a TIFF with the axes {axes} is not supported")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    elif values.dtype.kind not in "uif":
        raise ValueError(f"a TIFF of {values.dtype} is not supported")
    elif values.dtype.kind == "u" and page.bitspersample < 8:
        values = (values * (255 // (2**page.bitspersample - 1))).astype(np.uint8)
    return values[..., None] if values.ndim == 2 else values


def _is_alpha(band: np.ndarray, is_geotiff: bool) -> bool:
    """Whether a band that is tagged as alpha is an alpha channel.

    GDAL tags any fourth band as alpha, e.g. near infrared.
    """
    opaque = np.iinfo(band.dtype).max if band.dtype.kind in "ui" else 1
    if band.min() == band.max():
        return bool(band.min() == opaque)
    extremes = float(((band == 0) | (band == opaque)).mean())
    return extremes == 1 if is_geotiff else extremes >= _ALPHA_SHARE


def _nodata(page: tifffile.TiffPage) -> float | None:
    try:
        return float(str(_tag(page, _NODATA)).strip().rstrip("\0"))
    except ValueError:
        return None
