"""Where a picture lies on the Earth, with rasterio: coordinates, areas, and how files are opened."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

_CACHE_BYTES = 2**28  # of the blocks that GDAL keeps
_DEGREES = "OGC:CRS84"  # longitude, latitude
_EQUAL_AREA = "EPSG:6933"  # of the whole Earth, on the ellipsoid of WGS 84; in metres
_COLUMNS = 9  # points along a row of pixels, which is curved in another projection
_DIGITS = 9  # of degrees: 0.1 mm
_opening = threading.Lock()  # filters of warnings are shared by threads


@dataclass(frozen=True)
class Georeference:
    """Where a picture lies on a map, as its file states it.

    Attributes:
        crs: its coordinate reference system, as rasterio has it, or None.
        transform: the affine transform from pixel coordinates (x, y) to coordinates of `crs`.
        gcps: ground control points, and their reference system.
    """

    crs: Any
    transform: Any
    gcps: tuple[Any, Any]

    @property
    def is_known(self) -> bool:
        """Whether the picture has coordinates."""
        return self.crs is not None or not self.transform.is_identity or bool(self.gcps[0])

    @property
    def is_on_earth(self) -> bool:
        """Whether the coordinates are those of a known reference system."""
        return self._system_and_transform() is not None

    def to_degrees(self, geometry: Polygon | MultiPolygon) -> Polygon | MultiPolygon:
        """Convert a geometry from pixel coordinates to longitude and latitude (WGS 84)."""
        import shapely

        def convert(corners: np.ndarray) -> np.ndarray:
            return np.round(np.stack(self._coordinates(_DEGREES, *corners.T), axis=1), _DIGITS)

        return shapely.transform(geometry, convert)

    def pixel_areas(self, height: int, width: int) -> np.ndarray:
        """The area of a pixel in each row, (height,) in square metres on the ellipsoid.

        Areas of a map projection differ from it: in Web Mercator at 60 degrees by a factor of 4.
        """
        columns = np.linspace(0, width, _COLUMNS)
        x, y = np.meshgrid(columns, np.arange(height + 1))
        across, along = self._coordinates(_EQUAL_AREA, x.ravel(), y.ravel())
        u, v = np.reshape(across, x.shape), np.reshape(along, x.shape)
        # half the cross product of the diagonals of each part of a row of pixels
        falling = u[1:, 1:] - u[:-1, :-1], v[1:, 1:] - v[:-1, :-1]
        rising = u[1:, :-1] - u[:-1, 1:], v[1:, :-1] - v[:-1, 1:]
        parts = np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2
        return np.asarray(parts.sum(axis=1) / width)

    def _coordinates(self, system: str, x: np.ndarray, y: np.ndarray) -> tuple[Sequence[float], Sequence[float]]:
        """Convert pixel coordinates to coordinates of `system`. Raises `ValueError` if they are not on the Earth."""
        from rasterio.warp import transform

        own = self._system_and_transform()
        if own is None:
            raise ValueError("the picture has no coordinates of a known reference system")
        a, b, c, d, e, f = own[1][:6]
        first, second = transform(own[0], system, a * x + b * y + c, d * x + e * y + f)
        return first, second

    def _system_and_transform(self) -> tuple[Any, Any] | None:
        """The reference system and the transform to it, fitted to the control points if there are any."""
        from rasterio.transform import from_gcps

        points, system = self.gcps
        if points and system is not None:
            return system, from_gcps(points)
        return (self.crs, self.transform) if self.crs is not None and not self.transform.is_identity else None


def georeference(dataset: Any) -> Georeference:
    """Return the georeference of a file that rasterio has opened."""
    return Georeference(dataset.crs, dataset.transform, dataset.gcps)


def is_available() -> bool:
    """Whether rasterio is installed (the extra `geo`)."""
    return importlib.util.find_spec("rasterio") is not None


def gdal() -> Any:
    """Return the settings under which picie calls GDAL, a context manager."""
    import rasterio

    # No .aux.xml beside files, and large progressive JPEGs are read.
    return rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, GDAL_PAM_ENABLED=False, GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC=True)


def open_with_gdal(path: Path, mode: str = "r", **options: Any) -> Any:
    """Open a file with rasterio, without a warning if it has no coordinates.

    The program's own filters of warnings are as before when it returns.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **options)
