"""The georeference of a predicted picture: of its label map or its photo."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from picie.conversion.base import Picture
from picie.data.georeference import Georeference, gdal, georeference, is_available, open_with_gdal
from picie.runtime.progress import log

_SUFFIXES = {".tif", ".tiff", ".jp2", ".j2k"}


def georeference_of(picture: Picture) -> Georeference | None:
    """Read where a picture lies on the Earth, from its label map or its photo.

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

    try:
        with gdal(), open_with_gdal(path) as file:
            place = georeference(file)
            return place if file.shape == size and place.is_on_earth else None
    except RasterioError:
        return None
