"""Pictures read by rows: equal to pictures read as a whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from picie.data import images, raster_files, rasters
from picie.data.images import measure_scales, open_image
from picie.data.raster_files import open_raster
from picie.data.rasters import Decoded, scaled_rows
from picie.data.scaling import Reading
from picie.errors import UnreadableImageError

PLACE = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, 10, 10)}


def values(shape: tuple[int, ...], top: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(4).integers(1, top, shape).astype(dtype)


def write(path: Path, bands: np.ndarray, **options: Any) -> Path:
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    interpretation, colormap = options.pop("colorinterp", None), options.pop("colormap", None)
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(bands)
        if interpretation:
            file.colorinterp = interpretation
        if colormap:
            file.write_colormap(1, colormap)
    return path


def in_parts(raster: Any, step: int = 17) -> tuple[np.ndarray, np.ndarray | None]:
    parts = [raster.rows(top, min(top + step, raster.height)) for top in range(0, raster.height, step)]
    masks = [mask for _, mask in parts]
    return np.concatenate([pixels for pixels, _ in parts]), None if masks[0] is None else np.concatenate(masks)


@pytest.mark.parametrize("bands", [(), (3, 2, 1), (4,)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_geotiff_is_read_as_the_whole_file_is(tmp_path: Path, dtype: str, bands: tuple[int, ...]) -> None:
    stored = values((4, 60, 50), 250 if dtype == "uint8" else 3000, dtype)
    stored[:, 10:20, 5:25] = 0
    path = write(tmp_path / "x.tif", stored, nodata=0, **PLACE)
    reading = Reading(bands=bands).with_scales(measure_scales([path], Reading(bands=bands)))
    raster = open_raster(path, reading)
    assert raster is not None
    pixels, valid = in_parts(raster)
    assert np.array_equal(pixels, np.asarray(open_image(path, reading)))
    expected = np.ones((60, 50), np.bool_)
    expected[10:20, 5:25] = False
    assert np.array_equal(valid, expected)
    assert raster.georeference.crs.to_epsg() == 32632


def test_bands_are_chosen_and_missing_ones_refused(tmp_path: Path) -> None:
    stored = values((4, 6, 5), 250)
    path = write(tmp_path / "x.tif", stored, photometric="rgb", **PLACE)
    assert np.array_equal(np.asarray(open_image(path, Reading(bands=(3, 2, 1)))), np.moveaxis(stored[[2, 1, 0]], 0, -1))
    assert open_raster(path, Reading(bands=(1, 2, 5))) is None
    with pytest.raises(UnreadableImageError, match="it has 4 bands, and band 5 is to be used"):
        open_image(path, Reading(bands=(1, 2, 5)))


def test_a_type_without_a_scale_is_measured_on_the_file_and_not_on_its_rows(tmp_path: Path) -> None:
    stored = values((1, 64, 64), 4000, "uint16")
    stored[:, :32] //= 16
    path = write(tmp_path / "x.tif", stored, **PLACE)
    raster = open_raster(path, Reading())
    assert raster is not None
    assert np.array_equal(in_parts(raster, 8)[0], np.asarray(open_image(path)))


def test_geotiffs_above_the_limit_on_pixels_share_a_scale(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{top}.tif", values((1, 40, 40), top, "uint16"), **PLACE) for top in (900, 60_000)]
    plain = write(tmp_path / "plain.tif", values((1, 40, 40), 60_000, "uint16"))  # is not read at all
    reading = Reading(max_pixels=1000)
    assert measure_scales([*paths, plain], reading) == measure_scales(paths) == {"uint16": (0, 65535)}
    assert measure_scales([paths[0], plain], reading) == {"uint16": (0, 1023)}


@pytest.mark.parametrize(("dtype", "bands"), [("uint8", ()), ("uint16", ()), ("uint8", (3, 2, 1))])
def test_transparent_pixels_are_white_as_in_the_whole_file(tmp_path: Path, dtype: str, bands: tuple[int, ...]) -> None:
    opaque = np.iinfo(dtype).max
    stored = values((4, 40, 40), opaque, dtype)
    stored[3] = np.where(np.arange(1600).reshape(40, 40) < 700, 0, opaque)
    path = write(tmp_path / "x.tif", stored, photometric="RGB", alpha="yes", **PLACE)
    reading = Reading({"uint16": (0, 65535)}, bands=bands)
    raster = open_raster(path, reading)
    assert raster is not None
    pixels, valid = in_parts(raster)
    transparent = stored[3] == 0
    assert np.array_equal(valid, ~transparent)
    whole = np.asarray(open_image(path, reading))
    assert np.array_equal(pixels, whole)
    assert bands or (pixels[transparent] == 255).all()


def test_masks_and_alpha_are_missing_data_and_near_infrared_is_not(tmp_path: Path) -> None:
    stored = values((4, 20, 20), 250)
    alpha = np.where(np.arange(400).reshape(20, 20) < 100, 0, 255).astype(np.uint8)
    kinds = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    infrared = open_raster(write(tmp_path / "nir.tif", stored, colorinterp=kinds, **PLACE), Reading())
    assert infrared is not None
    assert infrared.rows(0, 20)[1] is None
    assert infrared.more_bands
    stored[3] = alpha
    with_alpha = open_raster(write(tmp_path / "alpha.tif", stored, colorinterp=kinds, **PLACE), Reading())
    assert with_alpha is not None
    assert np.array_equal(with_alpha.rows(0, 20)[1], alpha > 0)
    with rasterio.open(
        tmp_path / "mask.tif", "w", driver="GTiff", count=3, height=20, width=20, dtype="uint8", **PLACE
    ) as file:
        file.write(stored[:3])
        file.write_mask(alpha)
    masked = open_raster(tmp_path / "mask.tif", Reading())
    assert masked is not None
    assert np.array_equal(masked.rows(0, 20)[1], alpha > 0)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    stored = values((1, 9, 9), 3)
    path = write(tmp_path / "x.tif", stored, colormap={1: (10, 20, 30), 2: (200, 100, 0)}, **PLACE)
    raster = open_raster(path, Reading())
    assert raster is not None
    assert np.array_equal(raster.rows(0, 9)[0], np.array([[0, 0, 0], [10, 20, 30], [200, 100, 0]], np.uint8)[stored[0]])


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster_files, "LARGE", 100)
    monkeypatch.setattr(images, "LARGE", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit, which data.max_pixels replaces


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("name", ["x.jpg", "grey.jpg", "x.png", "x.tif", "deep.tif"])
def test_a_large_picture_is_read_as_the_whole_file_is(tmp_path: Path, name: str) -> None:
    smooth = Image.fromarray(values((9, 12, 3), 250)).resize((120, 90), Image.Resampling.BICUBIC)
    path = tmp_path / name
    if name == "deep.tif":
        write(path, values((3, 90, 120), 4000, "uint16"))
    else:
        # At full resolution of the colours, which decoders of JPEG enlarge differently.
        (smooth.convert("L") if name == "grey.jpg" else smooth).save(path, subsampling=0)
    reading = Reading().with_scales(measure_scales([path]))
    raster = open_raster(path, reading)
    assert raster is not None
    assert not raster.georeference.is_known
    difference = np.abs(in_parts(raster)[0] - np.asarray(open_image(path, reading)).astype(int))
    assert difference.max() <= (1 if path.suffix == ".jpg" else 0)
    assert np.array_equal(in_parts(raster.reopened())[0], in_parts(raster)[0])


@pytest.mark.usefixtures("all_large")
def test_what_rows_would_show_otherwise_is_decoded_whole(tmp_path: Path) -> None:
    image = Image.fromarray(values((90, 120, 3), 250))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("1").save(tmp_path / "bits.tif")
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    image.save(tmp_path / "x.webp")
    (tmp_path / "broken.jpg").write_bytes(b"x")
    image.resize((9, 9)).save(tmp_path / "small.jpg")
    for path in tmp_path.iterdir():
        assert open_raster(path, Reading()) is None, path.name


def test_a_small_picture_without_coordinates_is_decoded_whole(tmp_path: Path) -> None:
    assert open_raster(write(tmp_path / "x.tif", values((3, 90, 120), 250)), Reading()) is None


@pytest.mark.usefixtures("all_large")
def test_the_filters_of_warnings_are_those_of_the_program(tmp_path: Path) -> None:
    Image.fromarray(values((40, 50), 200)).save(tmp_path / "a.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = warnings.filters[:]
        picture = open_raster(tmp_path / "a.png", Reading())
        assert picture is not None
        picture.reopened().rows(0, 10)
        assert warnings.filters == before
    assert caught == []


def test_a_damaged_file_is_one_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", values((3, 200, 200), 250), compress="deflate", **PLACE)
    path.write_bytes(path.read_bytes()[:20_000])
    raster = open_raster(path, Reading())
    assert raster is not None
    with pytest.raises(UnreadableImageError, match=r"x\.tif: cannot be read as an image"):
        raster.rows(0, 200)


@pytest.mark.parametrize("size", [(45, 60), (31, 17), (200, 300)])
def test_parts_of_a_scaled_picture_differ_by_rounding_only(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(values((120, 90, 3), 250))
    expected = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR)).astype(int)
    assert np.array_equal(scaled_rows(Decoded(image), size, 0, size[0])[0], expected)
    monkeypatch.setattr(rasters, "_PIXELS_AT_ONCE", 90 * 30)
    parts = scaled_rows(Decoded(image), size, 0, size[0])[0]
    assert np.abs(parts - expected).max() <= 1
    assert np.abs(scaled_rows(Decoded(image), size, 5, 9)[0] - expected[5:9]).max() <= 1
