"""GeoJSON: polygons in longitude and latitude, or in pixels for pictures without coordinates."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from picie.conversion.base import ConvertOptions, Format, Picture
from picie.conversion.georeference import georeference_of
from picie.conversion.polygons import PACKAGES, find_outlines


class GeoJson(Format):
    """GeoJSON: a folder with one file for each picture, in longitude and latitude (RFC 7946).

    A picture without coordinates gets those of its pixels, with y down.
    """

    options = frozenset({"per", "min_area", "tolerance", "fill_holes"})

    @classmethod
    def needs(cls, options: ConvertOptions) -> dict[str, str]:
        return PACKAGES

    def encode(self, picture: Picture) -> tuple[str, dict[str, Any]]:
        place, features = georeference_of(picture), []
        for outline in find_outlines(picture.labels, len(self.target.names), self.chosen):
            geometry = outline.geometry()
            properties = {"segment": self.target.names[outline.value], "value": outline.value}
            properties |= {"fill": self.target.colors[outline.value], "picture": picture.photo}
            converted = geometry if place is None else place.to_degrees(geometry)
            features.append({"type": "Feature", "properties": properties, "geometry": _oriented(converted)})
        content = {"type": "FeatureCollection", "name": picture.name, "coordinates": "pixels", "features": features}
        if place is not None:
            del content["coordinates"]
        return picture.name, content

    def write(self, encoded: tuple[str, dict[str, Any]]) -> None:
        name, content = encoded
        file = self.place / PurePosixPath(f"{name}.geojson")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content) + "\n", "ascii")


def _oriented(geometry: Any) -> dict[str, Any]:
    """Return the geometry as GeoJSON, with outer rings counterclockwise."""
    import shapely

    return dict(shapely.geometry.mapping(shapely.orient_polygons(geometry)))
