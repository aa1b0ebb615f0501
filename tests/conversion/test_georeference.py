"""Areas and coordinates of pictures on a map, against closed formulas and rasterio."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.warp import transform_geom
from tests.conversion.predicted import NAMES, write_predictions

from picie.conversion.base import ConvertOptions
from picie.conversion.convert import convert

LABELS = np.repeat(np.repeat(np.array([[0, 1], [2, 255], [1, 0]], np.uint8), 20, 0), 15, 1)
B, E = 6356752.314245, 0.0818191908426215  # the semi-minor axis and the eccentricity of WGS 84


def predicted_on_a_map(root: Path, crs: str, transform: rasterio.Affine) -> Path:
    """A folder of predictions of one picture with coordinates."""
    folder = write_predictions(root, {"area.png": LABELS})
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "crs": crs, "transform": transform, "nodata": 255}
    with rasterio.open(folder / "area.tif", "w", height=LABELS.shape[0], width=LABELS.shape[1], **profile) as file:
        file.write(LABELS, 1)
    record = folder / "predictions.json"
    record.write_text(record.read_text().replace('area.png",\n      "overlay', 'area.tif",\n      "overlay'))
    assert json.loads(record.read_text())["images"][str(root / "photos" / "area.png")]["labels"] == "area.tif"
    return folder


def areas(folder: Path, out: Path) -> dict[str, float]:
    convert(folder, "csv", out, progress=False)
    return {row["segment"]: float(row["m2"]) for row in csv.DictReader(out.open(encoding="utf-8"))}


def band(latitude: float) -> float:
    """The area in m2 between the equator and a latitude, for a radian of longitude."""
    s = math.sin(math.radians(latitude))
    return B**2 / 2 * (s / (1 - (E * s) ** 2) + math.log((1 + E * s) / (1 - E * s)) / (2 * E))


def test_degrees_are_measured_on_the_ellipsoid(tmp_path: Path) -> None:
    step = 0.001
    folder = predicted_on_a_map(tmp_path, "EPSG:4326", from_origin(8, 60, step, step))
    found = areas(folder, tmp_path / "areas.csv")
    for value in range(3):
        rows = (value == LABELS).sum(axis=1)
        expected = sum(
            n * math.radians(step) * (band(60 - row * step) - band(60 - (row + 1) * step)) for row, n in enumerate(rows)
        )
        assert found[NAMES[value]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("crs", "origin", "scale"),
    [("EPSG:32633", (500_000 - 150, 6_000_000), 0.9996), ("EPSG:3857", (900_000, 8_399_738), 2.0)],
)
def test_a_projection_is_corrected(crs: str, origin: tuple[float, float], scale: float, tmp_path: Path) -> None:
    """UTM is 0.9996 on its central meridian; Web Mercator doubles lengths at 60 degrees (to 0.3 %, on the ellipsoid)."""
    folder = predicted_on_a_map(tmp_path, crs, from_origin(*origin, 10, 10))
    found = areas(folder, tmp_path / "areas.csv")
    tolerance = 1e-5 if scale < 1 else 0.01
    assert found[NAMES[2]] == pytest.approx((LABELS == 2).sum() * 100 / scale**2, rel=tolerance)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_geojson_lies_where_the_picture_lies(crs: str, tmp_path: Path) -> None:
    transform = from_origin(500_000, 6_000_000, 0.2, 0.2) if crs == "EPSG:32633" else from_origin(8, 60, 1e-5, 1e-5)
    folder = predicted_on_a_map(tmp_path, crs, transform)
    convert(folder, "geojson", tmp_path / "out", ConvertOptions(tolerance=0), progress=False)
    content = json.loads((tmp_path / "out" / "area.geojson").read_text())
    assert "coordinates" not in content
    shapes = [(transform_geom("OGC:CRS84", crs, f["geometry"]), f["properties"]["value"]) for f in content["features"]]
    assert np.array_equal(rasterize(shapes, LABELS.shape, 255, transform=transform, dtype="uint8"), LABELS)
    x, y = np.array(content["features"][0]["geometry"]["coordinates"][0][0][0])
    assert (8 <= x <= 16, 53 <= y <= 61) == (True, True)
