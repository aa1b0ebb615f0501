"""Files that are read some rows at a time with rasterio: GeoTIFFs, and pictures of any size."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from picie.data.color_profiles import to_srgb
from picie.data.formats import open_with_pillow
from picie.data.georeference import gdal, georeference, is_available, open_with_gdal
from picie.data.pixels import Pixels, read_header
from picie.data.rasters import Rows
from picie.data.scaling import Reading, Scale, estimate, has_data, sample, to_8_bits
from picie.errors import UnreadableImageError

LARGE = 2**26
"""Pictures with more pixels are read by rows if they can be."""

_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_SAMPLE = 2**21  # pixels that a scale is measured on,
_SAMPLE_PARTS, _SAMPLE_ROWS = 16, 16  # in so many parts of so many rows


def open_raster(path: Path, reading: Reading) -> RasterFile | None:
    """Open a file to be read by rows.

    Returns:
        The picture, if it has coordinates, or more than `LARGE` and at most `reading.max_pixels`
        pixels; None if it is to be decoded as a whole: neither holds, rasterio is not installed, or
        the format or the kind of its values cannot be read by rows.
    """
    driver = _DRIVERS.get(path.suffix.lower())
    if driver is None or not is_available() or not path.is_file():  # opening a named pipe would block forever
        return None
    try:
        with path.open("rb") as file:
            header = read_header(file)
        if header.pages > 1 or (driver != "GTiff" and (math.prod(header.size) <= LARGE or not _is_plain(path))):
            return None
        with gdal():
            opened = RasterFile(path, open_with_gdal(path, driver=driver, sharing=False), reading)
    except Exception:  # whatever is wrong is reported when the file is decoded
        return None
    place = opened.georeference
    if place.is_known and driver == "GTiff":
        return opened if opened.is_simple else None
    usable = opened.is_simple and opened.alpha is None and header.orientation == 1
    return opened if usable and LARGE < math.prod(header.size) <= reading.max_pixels else None


class RasterFile:
    """A `Raster` of a file.

    Args:
        path: the file.
        dataset: the file as rasterio has opened it.
        reading: the bands that become RGB, and the scales of values of more than 8 bits; a type
            without a scale is measured on the file.

    Attributes:
        height: its height in pixels.
        width: its width in pixels.
        bands: the bands, from 1, that become grey or RGB.
        alpha: the band that is its alpha channel, or None.
        georeference: where it lies.
    """

    def __init__(self, path: Path, dataset: Any, reading: Reading) -> None:
        self.path, self.reading, self._dataset = path, reading, dataset
        self.height, self.width = dataset.height, dataset.width
        self.georeference = georeference(dataset)
        interpretation = [color.name for color in dataset.colorinterp]
        self._palette = _palette(dataset) if interpretation[0] == "palette" else None
        self.alpha = self._alpha_band(interpretation)
        # Decoding the whole file uses alpha neither with chosen bands nor beside other bands than RGB.
        self._over_white = not reading.bands and (len(interpretation) == 2 or interpretation[0] == "red")
        colors = dataset.count - (self.alpha is not None)
        self.bands: tuple[int, ...] = reading.bands or ((1, 2, 3) if colors >= 3 else (1,))
        structure = dataset.tags(ns="IMAGE_STRUCTURE")
        self._white_is_zero = structure.get("MINISWHITE") == "YES"
        profile = dataset.tags(ns="COLOR_PROFILE").get("SOURCE_ICC_PROFILE")
        self._profile = base64.b64decode(profile) if profile else None
        self._bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        self._kind = Pixels(np.empty(0, dataset.dtypes[0]), bits=self._bits).kind
        flags = {flag.name for flag in dataset.mask_flag_enums[0]}
        self._has_mask = "per_dataset" in flags and "alpha" not in flags

    @property
    def is_simple(self) -> bool:
        """Whether the values are grey or RGB, or colours of a palette, of one type of 8 bits or more."""
        kinds = set(self._dataset.dtypes)
        spaces = {"cyan", "magenta", "Y", "hue", "lightness"}
        return (
            len(kinds) == 1
            and np.dtype(kinds.pop()).kind in "uif"
            and self._bits >= 8
            and max(self.bands) <= self._dataset.count
            and not spaces & {color.name for color in self._dataset.colorinterp}
        )

    @property
    def more_bands(self) -> bool:
        """Whether the file has further bands, which are not used."""
        return bool(self._dataset.count - (self.alpha is not None) > len(self.bands))

    def reopened(self) -> RasterFile:
        """Return the same picture, opened once more, to be read from its top."""
        with gdal():
            return RasterFile(self.path, open_with_gdal(self.path, driver=self._dataset.driver, sharing=False), self.reading)

    def rows(self, top: int, bottom: int) -> Rows:
        """Return the rows from `top` up to, but not including, `bottom`.

        Raises:
            UnreadableImageError: the file is damaged.
        """
        pixels, masked = self._read(top, bottom)
        colors = to_8_bits(pixels, self._scales()) if self._palette is None else self._palette[pixels.values]
        if self._profile is not None:
            colors = np.asarray(to_srgb(Image.fromarray(colors), self._profile))
        if colors.ndim == 2:
            colors = np.repeat(colors[..., None], 3, axis=2)
        if pixels.alpha is not None and self._over_white:
            colors = np.where(pixels.alpha[..., None] > 0, colors, np.uint8(255))
        return np.ascontiguousarray(colors), self._valid(pixels, masked)

    def sample(self) -> Pixels:
        """Return up to two million of the pixels, from evenly spaced rows."""
        parts = [self._read(top, bottom)[0] for top, bottom in _spaced_rows(self.height)]
        step = max(1, sum(part.values.shape[0] for part in parts) * self.width // _SAMPLE)
        values = np.concatenate([part.values[:, ::step] for part in parts])
        alpha = None if parts[0].alpha is None else np.concatenate([p.alpha[:, ::step] for p in parts if p.alpha is not None])
        return replace(parts[0], values=values, alpha=alpha)

    def _scales(self) -> Mapping[str, Scale]:
        """The scales of the reading, with that of this file's type."""
        if self._kind != "uint8" and self._kind not in self.reading.scales:
            self.reading = self.reading.with_scales({self._kind: estimate([sample(self.sample())])})
        return self.reading.scales

    def _read(self, top: int, bottom: int) -> tuple[Pixels, np.ndarray | None]:
        """Return the pixels of some rows, and the mask of the file if it has one."""
        window = ((top, bottom), (0, self.width))
        bands = [*self.bands, *([self.alpha] if self.alpha is not None else [])]
        try:
            with gdal():
                values = self._dataset.read(bands, window=window)
                mask = self._dataset.dataset_mask(window=window) > 0 if self._has_mask else None
        except Exception as error:  # GDAL raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise UnreadableImageError(f"{self.path}: cannot be read as an image ({reason}); replace or remove it") from error
        values = np.moveaxis(values, 0, -1)
        alpha = values[..., -1] if self.alpha is not None else None
        color = values[..., : len(self.bands)]
        pixels = Pixels(
            color[..., 0] if len(self.bands) == 1 else color,
            alpha,
            nodata=self._dataset.nodata,
            white_is_zero=self._white_is_zero,
            bits=self._bits,
        )
        return pixels, mask

    def _valid(self, pixels: Pixels, mask: np.ndarray | None) -> np.ndarray | None:
        """(n, W) whether any band has data; None if all have."""
        if pixels.values.dtype == np.uint8 and pixels.nodata is None and pixels.alpha is None:
            return mask
        valid = has_data(pixels)
        if valid.ndim == 3:
            valid = np.asarray(valid.any(2))
        return valid if mask is None else valid & mask

    def _alpha_band(self, interpretation: list[str]) -> int | None:
        """The alpha channel: a last band of that kind which is fully opaque or transparent.

        GDAL tags any fourth band as alpha, e.g. near infrared.
        """
        if len(interpretation) not in {2, 4} or interpretation[-1] != "alpha":
            return None
        number = len(interpretation)
        with gdal():
            windows = [((top, bottom), (0, self.width)) for top, bottom in _spaced_rows(self.height)]
            band = np.concatenate([self._dataset.read(number, window=window) for window in windows])
        opaque = np.iinfo(band.dtype).max if band.dtype.kind in "ui" else 1
        return number if np.isin(band, (0, opaque)).all() and band.any() else None


def _spaced_rows(height: int) -> list[tuple[int, int]]:
    """The first row and the row after the last of evenly spaced parts; of a low picture, all rows.

    Whole rows are read, because GDAL decodes a compressed block again for each row of a reduced
    picture.
    """
    if height <= _SAMPLE_PARTS * _SAMPLE_ROWS:
        return [(0, height)]
    tops = [i * (height - _SAMPLE_ROWS) // (_SAMPLE_PARTS - 1) for i in range(_SAMPLE_PARTS)]
    return [(top, top + _SAMPLE_ROWS) for top in tops]


def _is_plain(path: Path) -> bool:
    """Whether a JPEG or PNG is grey or RGB; GDAL converts other colours in its own way."""
    with open_with_pillow(path) as image:
        return image.mode in {"L", "RGB", "I;16"} and "transparency" not in image.info


def _palette(dataset: Any) -> np.ndarray:
    """(256 or 65536, 3) uint8 colours of the values of band 1."""
    table = np.zeros((np.iinfo(dataset.dtypes[0]).max + 1, 3), np.uint8)
    for value, color in dataset.colormap(1).items():
        table[value] = color[:3]
    return table
