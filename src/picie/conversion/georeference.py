"""Where a picture lies on the Earth: coordinates and areas, with rasterio."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picie.conversion.base import Picture
from picie.data.raster_files import gdal, is_available, open_with_gdal
from picie.runtime.progress import log

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

PACKAGE = {"rasterio": "geo"}
_SUFFIXES = {".tif", ".tiff", ".jp2", ".j2k"}
_DEGREES = "OGC:CRS84"  # longitude, latitude
_EQUAL_AREA = "EPSG:6933"  # of the whole Earth, on the ellipsoid of WGS 84; in metres
_COLUMNS = 9  # points along a row of pixels, which is curved in another projection
_DIGITS = 9  # of degrees: 0.1 mm


@dataclass(frozen=True)
class Georeference:
    """The coordinate reference system of a picture, and its transform from pixels.

    Attributes:
        crs: rasterio's CRS.
        transform: the affine transform from pixel coordinates (x, y) to coordinates of `crs`.
    """

    crs: Any
    transform: Any

    def to_degrees(self, geometry: Polygon | MultiPolygon) -> Polygon | MultiPolygon:
        """Convert a geometry from pixel coordinates to longitude and latitude (WGS 84)."""
        import shapely
        from rasterio.warp import transform

        def convert(corners: np.ndarray) -> np.ndarray:
            return np.round(np.stack(transform(self.crs, _DEGREES, *self._project(*corners.T)), axis=1), _DIGITS)

        return shapely.transform(geometry, convert)

    def pixel_areas(self, height: int, width: int) -> np.ndarray:
        """The area of a pixel in each row, (height,) in square metres on the ellipsoid.

        Areas of a map projection differ from it: in Web Mercator at 60 degrees by a factor of 4.
        """
        from rasterio.warp import transform

        columns = np.linspace(0, width, _COLUMNS)
        x, y = np.meshgrid(columns, np.arange(height + 1))
        across, along = transform(self.crs, _EQUAL_AREA, *self._project(x.ravel(), y.ravel()))
        u, v = np.reshape(across, x.shape), np.reshape(along, x.shape)
        # half the cross product of the diagonals of each part of a row of pixels
        falling = u[1:, 1:] - u[:-1, :-1], v[1:, 1:] - v[:-1, :-1]
        rising = u[1:, :-1] - u[:-1, 1:], v[1:, :-1] - v[:-1, 1:]
        parts = np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2
        return np.asarray(parts.sum(axis=1) / width)

    def _project(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert pixel coordinates to coordinates of `crs`."""
        a, b, c, d, e, f = self.transform[:6]
        return a * x + b * y + c, d * x + e * y + f


def georeference_of(picture: Picture) -> Georeference | None:
    """Read the georeference of a picture, from its label map or its photo.

    Returns:
        None if neither has one, or if rasterio is not installed.
    """
    for path in (picture.map_file, picture.source):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            if not is_available():
                _say_missing()
                return None
            found = _read(path, (picture.height, picture.width))
            if found is not None:
                return found
    return None


@cache
def _say_missing() -> None:
    log.warning("without rasterio, coordinates and areas of GeoTIFF are not read; pip install 'picie[geo]'")


def _read(path: Path, size: tuple[int, int]) -> Georeference | None:
    from rasterio.errors import RasterioError
    from rasterio.transform import from_gcps

    try:
        with gdal(), open_with_gdal(path) as file:
            if file.shape != size:
                return None
            points, system = file.gcps
            if points and system is not None:
                return Georeference(system, from_gcps(points))
            known = file.crs is not None and not file.transform.is_identity
            return Georeference(file.crs, file.transform) if known else None
    except RasterioError:
        return None
