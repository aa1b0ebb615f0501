"""Colour conversion against published values, and k-means on pictures that have an answer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from picie.config import Config, with_overrides
from picie.data.folder import Folder
from picie.data.images import centre_frame
from picie.errors import InputError, UnreadableImageError
from picie.inference import sampling
from picie.models.extractor import Extractor
from picie.runtime.progress import Progress
from picie.scoring.baselines import (
    color_and_position,
    color_kmeans,
    evaluate_baselines,
    feature_kmeans,
    raw_kmeans,
    sample_pixels,
)
from picie.scoring.counting import Predict
from picie.scoring.evaluation import ScoreOptions
from picie.training import api


# CIELAB (D65, 2 degrees) of sRGB colours, from Bruce Lindbloom's calculator (brucelindbloom.com).
def test_colour_and_position_of_each_pixel() -> None:
    pixels = np.zeros((2, 3, 3, 5), dtype=np.uint8)
    pixels[1, 0, 2, 4] = 255  # one red pixel, in the last corner of the second image
    points = color_and_position(pixels).reshape(2, 3, 5, 5)
    np.testing.assert_allclose(points[1, 2, 4], [53.24, 80.09, 67.20, 1, 1], atol=0.03)
    np.testing.assert_allclose(points[1, 0, 0], [0, 0, 0, -1, -1], atol=1e-9)
    np.testing.assert_allclose(points[0, 1, 2], [0, 0, 0, 0, 0], atol=1e-9)
    assert np.abs(points[0, ..., :3]).max() == 0


class Pictures:
    classes = None

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> Image.Image:
        if not self.pictures[index].size:
            raise UnreadableImageError("broken")
        return Image.fromarray(self.pictures[index])


def config(k: int) -> Config:
    return Config.model_validate({"cluster": {"k": k}, "views": {"size": 16}})


def sampled(pictures: list[np.ndarray], k: int = 2) -> np.ndarray:
    with Progress(False) as bars:
        return sample_pixels(Pictures(pictures), config(k), bars)


def clustered(pictures: list[np.ndarray], k: int, weight: float) -> Predict:
    return color_kmeans(sampled(pictures, k), config(k), weight)


def checkers() -> tuple[np.ndarray, np.ndarray]:
    """A picture of four noisy colours in quarters, and the quarter of each pixel."""
    colors = np.array([[200, 30, 30], [30, 170, 40], [40, 60, 190], [210, 210, 90]])
    quarters = np.kron(np.arange(4).reshape(2, 2), np.ones((8, 8), dtype=int))
    noise = np.random.default_rng(0).integers(-9, 10, (16, 16, 3))
    return (colors[quarters] + noise).astype(np.uint8), quarters


def test_an_equal_number_of_pixels_of_each_picture_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    first, broken, second = checkers()[0], np.zeros((0, 0, 3)), np.full((16, 16, 3), 255, dtype=np.uint8)
    own = color_and_position(first.transpose(2, 0, 1)[None])
    points = sampled([first, broken, second])
    assert points.shape == (2 * 16 * 16, 5)  # all of them, where they are few
    np.testing.assert_array_equal(points[:256][np.lexsort(points[:256].T)], own[np.lexsort(own.T)])
    monkeypatch.setattr(sampling, "_MAX_VALUES", 5 * 300)
    points = sampled([first, broken, second])
    assert points.shape == (200, 5)
    assert len(np.unique(points[:100], axis=0)) == 100  # none twice
    assert {tuple(point) for point in points[:100]} <= {tuple(point) for point in own}
    np.testing.assert_allclose(points[100:, :3], np.broadcast_to([100, 0, 0], (100, 3)), atol=0.02)
    np.testing.assert_array_equal(points, sampled([first, broken, second]))


def test_colours_are_told_apart() -> None:
    picture, quarters = checkers()
    predict = clustered([picture, np.zeros((0, 0, 3)), picture[::-1]], 4, 0.0)
    clusters = predict(torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()), (16, 16))
    assert clusters.shape == (1, 16, 16)
    assert {(int(q), int(c)) for q, c in zip(quarters.ravel(), clusters.ravel(), strict=True)} in [
        set(enumerate(order)) for order in product(range(4), repeat=4) if len(set(order)) == 4
    ]


def test_position_tells_apart_what_colour_does_not() -> None:
    picture = np.random.default_rng(1).integers(100, 150, (16, 16, 3)).astype(np.uint8)  # noise without any layout
    pixels = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy())

    def neighbours_agree(weight: float) -> float:
        clusters = clustered([picture], 2, weight)(pixels, (16, 16))[0]
        assert np.bincount(clusters.ravel(), minlength=2).min() > 60
        return float(np.mean(clusters[:, 1:] == clusters[:, :-1]))

    assert neighbours_agree(0.0) < 0.65
    assert neighbours_agree(10.0) > 0.9


def test_pixels_of_another_size_are_resized_to_the_labels() -> None:
    picture, _ = checkers()
    predict = clustered([picture], 4, 0.0)
    pixels = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy())
    larger = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    np.testing.assert_array_equal(predict(larger, (16, 16)), predict(pixels, (16, 16)))


RAW = "k-means on raw backbone features"


@pytest.fixture
def pretrained(tiny: Callable[..., Config], tmp_path: Path) -> Config:
    """The tiny configuration with weights from a file, which stand in for ImageNet's."""
    torch.manual_seed(5)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "weights.safetensors")
    return tiny("model.pretrained=true", f"model.weights={tmp_path / 'weights.safetensors'}", "train.epochs=0")


def test_raw_features_are_clustered_as_their_restatement_says(pretrained: Config, labelled_folder: Path) -> None:
    """Every centroid is the direction of the mean of its cells' features: k-means has arrived, and on these features."""
    data = Folder(labelled_folder, "train")
    with Progress(False) as bars:
        predict = raw_kmeans(data, pretrained, "cpu", bars)
    pixels = torch.from_numpy(np.stack([centre_frame(data.image(i), (32, 32)) for i in range(len(data))]))
    extractor = Extractor(pretrained.model).eval()
    with torch.no_grad():
        levels = extractor.levels(pixels / 255)
    maps = [F.interpolate(level, (8, 8), mode="bilinear", align_corners=False) for level in levels]
    centred = [m - m.mean((0, 2, 3), keepdim=True) for m in maps]
    scaled = torch.cat([m / m.square().sum(1).mean().sqrt() for m in centred], dim=1)
    z = F.normalize(scaled, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    clusters = torch.from_numpy(predict(pixels, (8, 8)).ravel())
    assert len(clusters.unique()) == 3
    centroids = F.normalize(torch.stack([z[clusters == i].sum(0) for i in range(3)]), dim=1)
    assert torch.equal((z @ centroids.T).argmax(1), clusters)


def test_a_run_is_shown_beside_the_raw_features_of_its_backbone(pretrained: Config, tmp_path: Path) -> None:
    run = api.train(pretrained, tmp_path / "run")
    rows = evaluate_baselines(run, options=ScoreOptions(device="cpu", progress=False))
    names = ["constant prediction", "k-means on colour", "k-means on colour and position", RAW]
    assert list(rows) == names
    assert rows[RAW].confusion.shape == (3, 3)
    assert rows[RAW].protocol == rows["k-means on colour"].protocol
    assert rows[RAW].confusion.sum() == rows["k-means on colour"].confusion.sum()


def test_raw_features_are_left_out_where_there_are_no_weights(
    cli: Callable[..., tuple[int, str, str]], pretrained: Config, trained: Path, tmp_path: Path
) -> None:
    status, stdout, stderr = cli("evaluate", trained, "--baselines")
    assert status == 0
    assert f"warning: skipped: {RAW}: the run's backbone did not start from pretrained weights" in stderr
    assert RAW not in stdout
    assert "k-means on colour" in stdout
    run = api.train(pretrained, tmp_path / "run")
    Path(str(pretrained.model.weights)).unlink()
    status, stdout, stderr = cli("evaluate", run, "--baselines")
    assert status == 0
    assert "weights.safetensors: no such file" in stderr
    assert RAW not in stdout


def test_no_label_is_opened_but_to_score(own_folder: Path, pretrained: Config, tmp_path: Path) -> None:
    run = api.train(with_overrides(pretrained, [f"data.root={own_folder}"]), tmp_path / "run")
    expected = evaluate_baselines(run, options=ScoreOptions(progress=False))
    for file in (own_folder / "labels" / "train").iterdir():
        file.write_bytes(b"no label")
    rows = evaluate_baselines(run, options=ScoreOptions(progress=False))
    assert len(rows) == 4
    assert all(np.array_equal(rows[name].confusion, expected[name].confusion) for name in expected)


def test_more_clusters_than_cells_are_refused() -> None:
    with pytest.raises(InputError, match="cannot make 5 clusters from 4 feature cells"):
        feature_kmeans(torch.eye(4), 5, config(2))
