"""Label maps and overlays that are written some rows at a time, with rasterio.

A picture with coordinates becomes a GeoTIFF with the same coordinates, colours and names; any
other becomes a PNG. Overlays are TIFFs, compressed as JPEG: GDAL writes a JPEG file from the
coefficients of the whole picture, 3 bytes a pixel.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from picie.data.georeference import gdal, open_with_gdal
from picie.data.raster_files import RasterFile
from picie.display.colors import Color
from picie.display.overlays import NamesInPlace, draw_overlay, region_step, regions_of_reduced
from picie.inference.outputs import Maps, joined
from picie.runtime.atomic_write import check_room, partial_file

_ROWS = 512  # rows of a part, and side of the blocks of a GeoTIFF
_QUALITY = 92  # of the JPEG in overlays
_BLOCKS = {"tiled": True, "blockxsize": _ROWS, "blockysize": _ROWS}


@dataclass(frozen=True)
class RowsOutput:
    """The files of one picture.

    Attributes:
        labels: the label map's file.
        overlay: the overlay's file, or None.
        confidence: the file of the margin, or None.
        names: the name of each value.
        colors: the colour of each value.
        write_names: whether the overlay shows the names of large regions. It is then written after
            the label map, which the regions depend on.
    """

    labels: Path
    overlay: Path | None
    confidence: Path | None
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    write_names: bool = False

    @property
    def ignore(self) -> int:
        """The value of pixels without data: 255, or 65535 if there are more than 255 values."""
        return 255 if len(self.names) <= 255 else 65535

    @property
    def dtype(self) -> str:
        """The type of the values."""
        return "uint8" if self.ignore == 255 else "uint16"

    def write(self, raster: RasterFile, parts: Iterable[Maps]) -> np.ndarray:
        """Write the label map, the overlay and the margin.

        Args:
            raster: the picture.
            parts: the maps (n, W) of some rows, from top to bottom, with the margin if it is
                written.

        Returns:
            (V,) the number of pixels of each value; pixels without data are not counted.

        Raises:
            OSError: a file cannot be written.
            UnreadableImageError: the picture is damaged.
        """
        source, counts = raster.reopened(), np.zeros(self.ignore + 1, np.int64)
        overlay = None if self.write_names else self.overlay
        step = region_step((raster.height, raster.width))
        reduced: list[np.ndarray] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(gdal())
            write_labels = stack.enter_context(self._opened(self.labels, raster, 1))
            write_overlay = None if overlay is None else stack.enter_context(self._opened(overlay, raster, 3))
            above: np.ndarray | None = None
            write_margin = None if self.confidence is None else stack.enter_context(self._opened(self.confidence, raster, 1))
            for top, (labels, margin) in _in_parts(parts, _ROWS):
                pixels, valid = source.rows(top, top + len(labels))
                values = labels.astype(self.dtype)
                if valid is not None:
                    values[~valid] = self.ignore
                counts += np.bincount(values.ravel(), minlength=len(counts))
                write_labels(top, values[None])
                if write_margin is not None and margin is not None:
                    write_margin(top, (margin if valid is None else np.where(valid, margin, np.uint8(0)))[None])
                if write_overlay is not None:
                    write_overlay(top, _blended(pixels, values, above, self.colors).transpose(2, 0, 1))
                above = values[-1:]
                reduced.append(values[(step // 2 - top) % step :: step, step // 2 :: step])
        if self.overlay is not None and self.write_names:
            regions = regions_of_reduced(np.concatenate(reduced))
            self._write_overlay(self.overlay, raster, NamesInPlace(regions, self.names, (raster.width, raster.height)))
        return counts[: len(self.names)]

    def _write_overlay(self, path: Path, raster: RasterFile, names: NamesInPlace) -> None:
        """Write an overlay with names, from the label map that has been written."""
        source, above = raster.reopened(), None
        with gdal(), open_with_gdal(self.labels) as labels, self._opened(path, raster, 3) as write:
            for top in range(0, raster.height, _ROWS):
                bottom = min(top + _ROWS, raster.height)
                values = labels.read(1, window=((top, bottom), (0, raster.width)))
                drawn = Image.fromarray(_blended(source.rows(top, bottom)[0], values, above, self.colors))
                names.draw(drawn, top)
                write(top, np.asarray(drawn).transpose(2, 0, 1))
                above = values[-1:]

    @contextlib.contextmanager
    def _opened(self, path: Path, raster: RasterFile, bands: int) -> Iterator[Any]:
        """Yield a function that writes rows: it takes the first row and values (bands, n, W)."""
        import rasterio.shutil
        from rasterio.errors import RasterioError

        is_tiff = path.suffix == ".tif"
        try:
            with partial_file(path) as partial, contextlib.ExitStack() as stack:
                # GDAL writes a PNG from a complete picture.
                file = partial if is_tiff else partial.with_suffix(".rows.partial")
                if file != partial:
                    stack.callback(file.unlink, missing_ok=True)
                profile = self._profile(raster, bands, is_tiff)
                profile |= {} if path == self.labels else {"dtype": "uint8", "nodata": None}
                with open_with_gdal(file, "w", **profile) as opened:
                    self._describe(opened, raster, path == self.labels, is_tiff)

                    def write(top: int, values: np.ndarray) -> None:
                        check_room(path, 2 * values.nbytes)
                        opened.write(values, window=((top, top + values.shape[1]), (0, raster.width)))

                    yield write
                if file != partial:
                    check_room(path, file.stat().st_size)
                    rasterio.shutil.copy(file, partial, driver="PNG")
        except RasterioError as error:
            raise OSError(None, " ".join(str(error).split())[:200], str(path)) from error

    def _profile(self, raster: RasterFile, bands: int, is_tiff: bool) -> dict[str, Any]:
        """How rasterio creates a file."""
        profile: dict[str, Any] = {"driver": "GTiff", "width": raster.width, "height": raster.height, "count": bands}
        profile |= {"dtype": self.dtype, "bigtiff": "if_safer", **_BLOCKS}
        if not is_tiff:
            return profile | {"compress": "lzw"}
        if bands == 3:
            return profile | {"compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": _QUALITY}
        return profile | {"compress": "deflate", "nodata": self.ignore}

    def _describe(self, opened: Any, raster: RasterFile, is_labels: bool, is_tiff: bool) -> None:
        """Write coordinates, and for the label map colours and names."""
        place = raster.georeference
        if place.is_known:
            if place.gcps[0]:
                opened.gcps = place.gcps
            else:
                opened.crs, opened.transform = place.crs, place.transform
        if is_labels and self.dtype == "uint8":
            opened.write_colormap(1, {value: (*color, 255) for value, color in enumerate(self.colors)})
        if is_labels and is_tiff:
            opened.update_tags(names=json.dumps(self.names), ignore=str(self.ignore))


def _in_parts(parts: Iterable[Maps], rows: int) -> Iterator[tuple[int, Maps]]:
    """Yield the same rows in parts that begin at multiples of `rows`."""
    top = 0
    waiting: list[Maps] = []
    for maps in parts:
        waiting.append(maps)
        if sum(len(part.labels) for part in waiting) >= rows:
            rest = joined(waiting)
            whole = len(rest.labels) // rows * rows
            for start in range(0, whole, rows):
                yield top, rest.rows(start, start + rows)
                top += rows
            waiting = [rest.rows(whole, len(rest.labels))]
    if sum(len(part.labels) for part in waiting):
        yield top, joined(waiting)


def _blended(pixels: np.ndarray, labels: np.ndarray, above: np.ndarray | None, colors: tuple[Color, ...]) -> np.ndarray:
    """Return the overlay (n, W, 3) of some rows, below the row of labels `above`."""
    if above is not None:
        pixels, labels = np.concatenate([pixels[:1], pixels]), np.concatenate([above, labels])
    image = Image.fromarray(pixels)
    draw_overlay(image, labels, colors)
    return np.asarray(image)[0 if above is None else 1 :]
