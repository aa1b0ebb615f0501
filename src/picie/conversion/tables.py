"""CSV and Parquet: one row for each segment of an image, or for each of its components."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from picie.conversion.base import ConvertOptions, Format, Picture, Target
from picie.conversion.georeference import georeference_of
from picie.conversion.regions import Region, find_regions

_SEGMENT_COLUMNS = {
    "picture": str,
    "width": int,
    "height": int,
    "value": int,
    "segment": str,
    "pixels": int,
    "share": float,
    "m2": float,
}
_COMPONENT_COLUMNS = {
    "component": int,
    "box_x": int,
    "box_y": int,
    "box_width": int,
    "box_height": int,
    "centroid_x": float,
    "centroid_y": float,
}
_ROWS_AT_ONCE = 65_536  # of a row group of a Parquet file

Row = dict[str, Any]


class _Table(Format):
    """A table of segments or components.

    `share` is the share of the pixels that are not ignored. `m2` is None without a georeference.
    """

    options = frozenset({"per", "min_area"})

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        super().__init__(target, options, place)
        self.columns = dict(_SEGMENT_COLUMNS)
        if options.per == "component":
            self.columns |= _COMPONENT_COLUMNS

    def encode(self, picture: Picture) -> list[Row]:
        picture.photo.encode()  # raises if the name is not valid Unicode
        n, per_component = len(self.target.names), self.chosen.per == "component"
        regions = find_regions(picture.labels, n, per_component, self.chosen.min_area)
        total = int((picture.labels < n).sum())
        place = georeference_of(picture)
        pixel_areas = None if place is None else place.pixel_areas(picture.height, picture.width)
        rows, number, value = [], 0, -1
        for region in regions:
            number = number + 1 if region.value == value else 1
            value = region.value
            row = {"picture": picture.photo, "width": picture.width, "height": picture.height, "value": value}
            row |= {"segment": self.target.names[value], "pixels": region.area, "share": round(region.area / total, 6)}
            row["m2"] = None if pixel_areas is None else _square_metres(region, pixel_areas)
            if per_component:
                keys = ("box_x", "box_y", "box_width", "box_height", "centroid_x", "centroid_y")
                centroid = [round(coordinate, 2) for coordinate in region.centroid]
                row |= {"component": number, **dict(zip(keys, (*region.box, *centroid), strict=True))}
            rows.append(row)
        return rows


def _square_metres(region: Region, pixel_areas: np.ndarray) -> float:
    return round(float(((region.end - region.first) * pixel_areas[region.rows]).sum()), 4)


class Csv(_Table):
    """A table of areas as CSV, in UTF-8: one row for each segment or component of an image."""

    suffixes = (".csv",)

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        super().__init__(target, options, place)
        self.file = place.open("w", encoding="utf-8", newline="")
        self.writer = csv.DictWriter(self.file, list(self.columns), lineterminator="\n")
        self.writer.writeheader()

    def write(self, encoded: list[Row]) -> None:
        self.writer.writerows(encoded)

    def close(self) -> None:
        self.file.close()


class Parquet(_Table):
    """A table of areas as Parquet: one row for each segment or component of an image."""

    suffixes = (".parquet",)

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        super().__init__(target, options, place)
        import pyarrow
        from pyarrow import parquet

        types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
        self.schema = pyarrow.schema([(name, types[kind]) for name, kind in self.columns.items()])
        self.writer = parquet.ParquetWriter(place, self.schema)
        self.rows: list[Row] = []

    @classmethod
    def needs(cls, options: ConvertOptions) -> dict[str, str]:
        return {"pyarrow": "parquet"}

    def write(self, encoded: list[Row]) -> None:
        self.rows += encoded
        if len(self.rows) >= _ROWS_AT_ONCE:
            self._flush()

    def finish(self) -> None:
        self._flush()

    def _flush(self) -> None:
        import pyarrow

        self.writer.write_table(pyarrow.Table.from_pylist(self.rows, schema=self.schema))
        self.rows.clear()

    def close(self) -> None:
        self.writer.close()
