"""`picie predict --refine`: borders that follow the edges of the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from kornia.filters import guided_blur
from PIL import Image
from rasterio.transform import from_origin
from tests.conftest import picture

from picie.data.rasters import Decoded
from picie.inference import refinement
from picie.inference.predict import predict_files
from picie.inference.prediction_options import PredictOptions
from picie.inference.refinement import refined_clusters


def refined(probabilities: torch.Tensor, image: Image.Image, radius: int = 13, rows: int | None = None) -> torch.Tensor:
    """The refined clusters of an image, computed `rows` rows at a time."""
    step, rows = (probabilities.shape[1] / image.height, probabilities.shape[2] / image.width), rows or image.height
    tops = range(0, image.height, rows)
    parts = [(top, min(top + rows, image.height)) for top in tops]
    return torch.cat([refined_clusters(probabilities, Decoded(image), part, step, radius) for part in parts])


def half(width: int, height: int, edge: int) -> Image.Image:
    """Dark on the left of column `edge`, bright on the right, with noise."""
    values = np.where(np.arange(width) < edge, 60, 190)[None, :, None] + np.random.default_rng(0).integers(
        -8, 9, (height, width, 3)
    )
    return Image.fromarray(values.astype(np.uint8))


def coarse(width: int, height: int) -> torch.Tensor:
    """Probabilities in 6 x 8 cells whose border is blurred over columns 3 to 5, of 8."""
    right = torch.tensor([0.0, 0.0, 0.1, 0.3, 0.6, 0.9, 1.0, 1.0]).expand(6, 8)
    return torch.stack([1 - right, right, torch.zeros(6, 8)])


def test_a_border_moves_to_the_edge() -> None:
    image = half(160, 120, edge=77)  # enlarged, the border is near column 83
    clusters = refined(coarse(160, 120), image).numpy()
    expected = np.broadcast_to(np.arange(160) >= 77, (120, 160))
    assert (clusters == expected).mean() > 0.99


def test_the_fits_are_those_of_kornia() -> None:
    generator = torch.Generator().manual_seed(0)
    colors, values = torch.rand(3, 40, 50, generator=generator), torch.rand(2, 40, 50, generator=generator)
    fits = refinement._fits(colors, values, 4)
    found = (fits[:, :3] * colors).sum(1) + fits[:, 3]
    expected = guided_blur(colors[None], values[None], 9, 1e-3)[0]
    inner = (..., slice(8, -8), slice(8, -8))  # at the border kornia reflects the picture
    assert torch.allclose(found[inner], expected[inner], atol=1e-4)


def test_parts_give_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(picture(3, (320, 240))[0])
    whole = refined(coarse(320, 240), image)
    monkeypatch.setattr(refinement, "_ENLARGED", 2**12)
    assert torch.equal(refined(coarse(320, 240), image), whole)
    assert (refined(coarse(320, 240), image, rows=50) == whole).float().mean() > 0.98


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (200, 5)])
def test_small_pictures_are_possible(size: tuple[int, int]) -> None:
    assert refined(coarse(8, 6), half(*size, edge=2)).shape == (size[1], size[0])


def test_the_command(untrained: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    image = Image.fromarray(picture(7)[0])
    image.save(tmp_path / "x.png")
    out = tmp_path / "out"
    predict_files(untrained, [tmp_path / "x.png"], out)
    before = np.asarray(Image.open(out / "x.png"))
    assert cli("predict", untrained, tmp_path / "x.png", "--out", out, "--refine")[:2] == (0, f"1 images -> {out}\n")
    after = np.asarray(Image.open(out / "x.png"))
    assert after.shape == before.shape
    assert set(np.unique(after)) <= set(np.unique(before))
    assert (after != before).any()
    assert json.loads((out / "predictions.json").read_text())["images"][str(tmp_path / "x.png")]["how"] == "refined"


def test_what_cannot_be_refined_is_refused(untrained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    command = ("predict", untrained, tmp_path, "--out", tmp_path / "out", "--refine")
    assert "leave out --steady or --refine" in refused(*command, "--steady", 0.5)


def test_tiles_and_geotiffs_are_refined(untrained: Path, tmp_path: Path) -> None:
    pixels = picture(7, (320, 192))[0]
    Image.fromarray(pixels).save(tmp_path / "x.png")
    profile = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32632",
        "transform": from_origin(5e5, 5.5e6, 10, 10),
    }
    with rasterio.open(tmp_path / "y.tif", "w", height=192, width=320, **profile) as file:
        file.write(pixels.transpose(2, 0, 1))
    for tile in (None, 64):
        folder = tmp_path / f"tile {tile}"
        for refine in (True, False):
            options = PredictOptions(tile=tile, size=None if tile else 96, refine=refine, confidence=True)
            predict_files(untrained, [tmp_path / "x.png", tmp_path / "y.tif"], folder / str(refine), options=options)
        x, y = (np.asarray(Image.open(folder / "True" / name)) for name in ("x.png", "y.tif"))
        assert np.array_equal(x, y)
        assert (x != np.asarray(Image.open(folder / "False" / "x.png"))).any()
        margins = [np.asarray(Image.open(folder / str(refine) / "x_confidence.png")) for refine in (True, False)]
        assert np.abs(margins[0].astype(int) - margins[1]).max() <= 1


def test_frames_of_a_video_are_refined_one_by_one(untrained: Path, tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(seed)[0]) for seed in (1, 2)]
    frames[0].save(tmp_path / "x.tif", save_all=True, append_images=frames[1:])
    options = PredictOptions(refine=True, frames="all", confidence=True)
    assert predict_files(untrained, [tmp_path / "x.tif"], tmp_path / "out", options=options).predicted == 1
    assert len(list((tmp_path / "out" / "x_frames").glob("*_confidence.png"))) == 2
