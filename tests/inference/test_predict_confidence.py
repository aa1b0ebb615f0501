"""`picie predict --confidence`: the margin beside each label map."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from tests.conftest import picture
from tests.data.test_frames import write_video

from picie import Segmenter
from picie.config import with_overrides
from picie.data import raster_files
from picie.inference.input_files import output_names
from picie.inference.predict import predict_files
from picie.inference.prediction_options import PredictOptions, Summary
from picie.inference.prediction_record import is_label_map

Cli = Callable[..., tuple[int, str, str]]
WANTED = PredictOptions(confidence=True)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(picture(7, (96, 64))[0]).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def entry(out: Path, source: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "predictions.json").read_text("utf-8"))["images"][str(source)]
    return found


def margin_of(run: Path, picture: Any) -> np.ndarray:
    margin = Segmenter.load(run).predict_with_margin(picture).margin
    assert margin is not None
    assert len(np.unique(margin)) > 20
    return margin


def test_the_margin_lies_beside_the_map(untrained: Path, photo: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    assert cli("predict", untrained, photo, "--out", out, "--confidence")[:2] == (0, f"1 images -> {out}\n")
    written = entry(out, photo)
    assert written["confidence"] == "a_confidence.png"
    image = Image.open(out / "a_confidence.png")
    assert (image.mode, image.size) == ("L", (96, 64))
    assert np.array_equal(np.asarray(image), margin_of(untrained, photo))
    assert np.array_equal(np.asarray(Image.open(out / "a.png")), Segmenter.load(untrained).predict(photo))
    assert [path.name for path in sorted(out.glob("*.png")) if is_label_map(path, out)] == ["a.png"]


def test_it_is_written_when_it_is_asked_for_later(untrained: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(untrained, [photo], out)
    assert entry(out, photo)["confidence"] is None
    assert predict_files(untrained, [photo], out, options=WANTED) == Summary(1, 0)
    assert predict_files(untrained, [photo], out, options=WANTED) == Summary(0, 1)
    assert predict_files(untrained, [photo], out) == Summary(0, 1)  # what is there stays
    (out / "a_confidence.png").unlink()
    assert predict_files(untrained, [photo], out, options=WANTED) == Summary(1, 0)
    predict_files(untrained, [photo], out, options=PredictOptions(overwrite=True))
    assert not (out / "a_confidence.png").exists()


def test_tiles_have_a_margin_too(untrained: Path, photo: Path, tmp_path: Path) -> None:
    predict_files(untrained, [photo], tmp_path / "out", options=PredictOptions(confidence=True, tile=64, size=64))
    margin = np.asarray(Image.open(tmp_path / "out/a_confidence.png"))
    segmenter = Segmenter.load(untrained)
    segmenter.config = with_overrides(segmenter.config, ["evaluate.scale=2"])  # of views of 32
    whole = segmenter.predict_with_margin(photo).margin
    assert whole is not None
    assert np.abs(margin.astype(int) - whole).mean() < 12  # borders of tiles see less


def test_a_geotiff_has_a_geotiff(untrained: Path, tmp_path: Path) -> None:
    pixels = np.moveaxis(picture(7, (96, 64))[0] // 2 + 1, -1, 0)
    pixels[:, :20, :30] = 0
    options = {"count": 3, "height": 64, "width": 96, "dtype": "uint8", "nodata": 0}
    place = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, 10, 10)}
    with rasterio.open(tmp_path / "scene.tif", "w", driver="GTiff", **place, **options) as file:
        file.write(pixels)
    predict_files(untrained, [tmp_path / "scene.tif"], tmp_path / "out", options=WANTED)
    with rasterio.open(tmp_path / "out/scene_confidence.tif") as file:
        margin = file.read(1)
        assert (file.count, file.dtypes, file.crs.to_epsg(), file.transform) == (1, ("uint8",), 32632, place["transform"])
        assert file.nodata is None
    assert (margin[:20, :30] == 0).all()
    assert len(np.unique(margin)) > 20


def test_a_large_picture_has_the_margin_of_a_small_one(untrained: Path, photo: Path, tmp_path: Path, monkeypatch: Any) -> None:
    expected = margin_of(untrained, photo)
    monkeypatch.setattr(raster_files, "LARGE", 1000)
    predict_files(untrained, [photo], tmp_path / "out", options=WANTED)
    image = Image.open(tmp_path / "out/a_confidence.png")
    assert image.mode == "L"
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 2


def test_the_frames_of_a_video_have_one_each(untrained: Path, tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(seed)[0]) for seed in (1, 2)]
    clip = write_video(tmp_path / "clip.mp4", frames)
    predict_files(untrained, [clip], tmp_path / "out", options=WANTED)
    written = entry(tmp_path / "out", clip)
    assert [frame["confidence"] for frame in written["frames"]] == [f"clip_frames/{i:06}_confidence.png" for i in (1, 2)]
    assert written["confidence"] == "clip_frames/000001_confidence.png"
    assert all(Image.open(tmp_path / "out" / frame["confidence"]).size == (64, 48) for frame in written["frames"])


@pytest.mark.parametrize("beside", ["a_confidence", "a_overlay", "a_frames/000001", "a_frames/000002_overlay"])
def test_a_photo_with_the_name_of_a_file_beside_a_map_gets_another_one(tmp_path: Path, beside: str) -> None:
    first, second = tmp_path / "a.tif", tmp_path / f"{beside}.tif"
    names = {first: Path("a.tif"), second: Path(f"{beside}.tif")}
    assert output_names(names, {}) == {"a": first, f"{beside}_2": second}
    assert output_names(dict(reversed(names.items())), {}) == {beside: second, "a_2": first}
    assert list(output_names({first: Path("a.tif")}, {str(second): beside})) == ["a_2"]
    assert list(output_names({second: Path(f"{beside}.tif")}, {str(first): "a"})) == [f"{beside}_2"]
