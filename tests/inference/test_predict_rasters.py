"""`picie predict` of GeoTIFFs, of large pictures, and in tiles."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from tests.conftest import picture

from picie import Segmenter
from picie.data import raster_files
from picie.data.images import open_image
from picie.data.scaling import Reading
from picie.display.overlays import overlay
from picie.errors import Stopped
from picie.inference import rows_output
from picie.inference.predict import predict_files
from picie.inference.prediction_options import PredictOptions, Summary

Cli = Callable[..., tuple[int, str, str]]
TRANSFORM = from_origin(500_000, 5_400_000, 10, 10)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A GeoTIFF of 16 bits and 4 bands (blue, green, red, infrared), with a part without data."""
    rgb, _ = picture(7, (320, 200))
    bands = np.moveaxis(np.dstack([rgb[..., ::-1], rgb[..., :1]]).astype(np.uint16) * 11 + 1, -1, 0)
    bands[:, :40, 100:] = 0
    options = {"count": 4, "height": 200, "width": 320, "dtype": "uint16", "nodata": 0}
    with rasterio.open(tmp_path / "scene.tif", "w", driver="GTiff", crs="EPSG:32632", transform=TRANSFORM, **options) as file:
        file.write(bands)
    return tmp_path / "scene.tif"


def record(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "predictions.json").read_text("utf-8"))
    return content


def test_a_geotiff_becomes_a_geotiff(untrained: Path, scene: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, stdout, _ = cli("predict", untrained, scene, "--bands", "3,2,1", "--out", out)
    assert (status, stdout) == (0, f"1 images -> {out}\n")
    segmenter, content = Segmenter.load(untrained), record(out)
    with rasterio.open(out / "scene.tif") as file:
        labels = file.read(1)
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32632, TRANSFORM, 255)
        assert [file.colormap(1)[i][:3] for i in range(len(segmenter.colors))] == list(segmenter.colors)
        assert json.loads(file.tags()["names"]) == list(segmenter.names)
    valid = np.ones((200, 320), np.bool_)
    valid[:40, 100:] = False
    assert (labels[~valid] == 255).all()
    assert content["scale"] == {"bands 3,2,1": {"uint16": [0, 4095]}}
    reading = Reading({"uint16": (0, 4095)}, bands=(3, 2, 1))
    image = open_image(scene, reading)
    expected = np.where(valid, segmenter.predict(image), 255)
    assert np.array_equal(labels, expected)
    entry = content["images"][str(scene)]
    assert (entry["labels"], entry["overlay"], entry["how"]) == ("scene.tif", "scene_overlay.tif", "bands 3,2,1")
    assert sum(entry["share"].values()) == pytest.approx(1, abs=1e-3)
    with rasterio.open(out / "scene_overlay.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.shape) == (32632, TRANSFORM, (200, 320))
        drawn = np.moveaxis(file.read(), 0, -1).astype(int)
    assert np.abs(drawn - np.asarray(overlay(image, expected, segmenter.colors))).mean() < 12  # JPEG
    assert {path.name for path in out.iterdir()} == {"scene.tif", "scene_overlay.tif", "legend.png", "predictions.json"}


def test_a_geotiff_is_predicted_again_for_other_bands_alone(untrained: Path, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for bands, expected in (((3, 2, 1), Summary(1, 0)), ((3, 2, 1), Summary(0, 1)), ((4,), Summary(1, 0))):
        assert predict_files(untrained, [scene], out, options=PredictOptions(bands=bands)) == expected
    predict_files(untrained, [scene], out, options=PredictOptions(overwrite=True, overlay=False))
    assert {path.name for path in out.iterdir()} == {"scene.tif", "legend.png", "predictions.json"}


def test_other_bands_have_a_scale_of_their_own(untrained: Path, scene: Path, tmp_path: Path) -> None:
    with rasterio.open(scene, "r+") as file:
        file.write(file.read(4) * 4, 4)
    other = Path(shutil.copy(scene, tmp_path / "other.tif"))
    scales: dict[str, Any] = {}
    for bands in ((3, 2, 1), (4,)):
        fresh = tmp_path / f"bands{bands[0]}"
        for out in (tmp_path / "out", fresh):
            predict_files(untrained, [scene], out, options=PredictOptions(bands=bands))
        scales |= record(fresh)["scale"]
        assert record(tmp_path / "out")["scale"] == scales
    assert scales["bands 3,2,1"] != scales["bands 4"]
    # the folder holds pictures of both, whichever bands were chosen last
    for bands in ((3, 2, 1), (4,)):
        predict_files(untrained, [other], tmp_path / "out", options=PredictOptions(bands=bands))
        assert record(tmp_path / "out")["scale"] == scales


def test_without_rasterio_a_geotiff_is_a_picture(untrained: Path, scene: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(raster_files, "is_available", lambda: False)
    predict_files(untrained, [scene], out)
    assert (out / "scene.png").is_file()
    monkeypatch.undo()
    predict_files(untrained, [scene], out, options=PredictOptions(size=40))
    assert {path.name for path in out.iterdir()} == {"scene.tif", "scene_overlay.tif", "legend.png", "predictions.json"}


def test_names_are_written_into_overlays_by_rows_as_into_others(untrained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    Image.fromarray(picture(7, (320, 200))[0]).save(tmp_path / "x.png")
    monkeypatch.setattr(rows_output, "_ROWS", 48)
    drawn = {}
    for large, labels in ((2**26, True), (1000, True), (1000, False)):
        monkeypatch.setattr(raster_files, "LARGE", large)
        out = tmp_path / f"{large} {labels}"
        predict_files(untrained, [tmp_path / "x.png"], out, options=PredictOptions(labels=labels))
        (overlay_file,) = out.glob("x_overlay.*")
        drawn[large, labels] = np.asarray(Image.open(overlay_file).convert("RGB")).astype(int)
    assert np.abs(drawn[1000, True] - drawn[2**26, True]).mean() < 2  # two encoders of JPEG
    assert np.abs(drawn[1000, True] - drawn[1000, False]).max() > 100


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_a_large_picture_has_the_files_of_a_small_one(untrained: Path, tmp_path: Path, monkeypatch: Any, ending: str) -> None:
    Image.fromarray(picture(7, (320, 200))[0]).save(tmp_path / f"x.{ending}")
    predict_files(untrained, [tmp_path / f"x.{ending}"], tmp_path / "small")
    monkeypatch.setattr(raster_files, "LARGE", 1000)
    monkeypatch.setattr(rows_output, "_ROWS", 48)
    predict_files(untrained, [tmp_path / f"x.{ending}"], tmp_path / "large")
    small, large = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("small", "large"))
    assert [name.replace("x_overlay.tif", "x_overlay.jpg") for name in large] == small
    maps = [Image.open(tmp_path / name / "x.png") for name in ("small", "large")]
    assert [image.mode for image in maps] == ["P", "P"]
    # The colours of a JPEG differ by a few grey levels between decoders.
    assert np.equal(*map(np.asarray, maps)).mean() >= (0.99 if ending == "jpg" else 1)
    assert maps[0].getpalette()[:9] == maps[1].getpalette()[:9]
    overlays = (tmp_path / "small" / "x_overlay.jpg", tmp_path / "large" / "x_overlay.tif")
    drawn = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in overlays]
    assert np.abs(drawn[0] - drawn[1]).mean() < 2  # two encoders of JPEG
    images = [record(tmp_path / name)["images"][str(tmp_path / f"x.{ending}")] for name in ("small", "large")]
    assert [image.pop("overlay") for image in images] == ["x_overlay.jpg", "x_overlay.tif"]
    shares = [image.pop("share") for image in images]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert images[0] == images[1]


def test_tiles_are_recorded_and_predicted_once(untrained: Path, scene: Path, cli: Cli, tmp_path: Path) -> None:
    Image.fromarray(picture(7, (320, 200))[0]).save(tmp_path / "x.jpg")
    out = tmp_path / "out"
    command = ("predict", untrained, tmp_path / "x.jpg", scene, "--out", out, "--tile", 64)
    assert cli(*command)[1] == f"2 images -> {out}\n"
    assert cli(*command)[1] == f"0 images -> {out} (2 more were there already)\n"
    for path in (tmp_path / "x.jpg", scene):
        entry = record(out)["images"][str(path)]
        assert entry["how"] == "tiles of 64 px, overlap 32, own resolution"
        assert entry["size"] == 200
    assert np.asarray(Image.open(out / "x.png")).shape == (200, 320)
    assert cli(*command, "--size", 100, "--overlap", 32)[1] == f"2 images -> {out}\n"
    assert record(out)["images"][str(scene)]["size"] == 100


def test_a_signal_stops_within_a_large_picture(untrained: Path, scene: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    original = Segmenter.encode

    def interrupted(self: Segmenter, pixels: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(self, pixels)

    monkeypatch.setattr(Segmenter, "encode", interrupted)
    with pytest.raises(Stopped, match="stopped; 0 of 1 images are done"):
        predict_files(untrained, [scene], out, options=PredictOptions(tile=64))
    assert {path.name for path in out.iterdir()} == {"legend.png", "predictions.json"}


def test_a_damaged_geotiff_is_skipped_and_leaves_nothing(untrained: Path, scene: Path, tmp_path: Path) -> None:
    scene.with_name("bad.tif").write_bytes(scene.read_bytes()[:-200_000])
    summary = predict_files(untrained, [scene, scene.with_name("bad.tif")], tmp_path / "out")
    assert summary.predicted == 1
    assert "bad.tif: cannot be read as an image" in summary.skipped[str(scene.with_name("bad.tif"))]
    assert not [path for path in (tmp_path / "out").iterdir() if "bad" in path.name or "partial" in path.name]
