"""From pictures to label maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import predicted_clusters
from torch.nn import functional as F

from picie import Config, Segmenter
from picie.data.base import ClassMap
from picie.data.images import whole_size
from picie.display.colors import palette
from picie.errors import UnreadableImageError
from picie.inference import enlarging
from picie.inference.enlarging import enlarged_argmax
from picie.training import api

CLASSES = ClassMap(("a", "b"), ("#010203", "#ff8000"))


@pytest.fixture(scope="module")
def labelled_run(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a step, which would leave the tiny network with one cluster a picture."""
    return api.train(tiny("train.epochs=0"), tmp_path_factory.mktemp("labelled") / "run")


@pytest.fixture
def segmenter(labelled_run: Path) -> Segmenter:
    return Segmenter.load(labelled_run, "cpu")


@pytest.fixture
def photo(labelled_folder: Path) -> Path:
    return labelled_folder / "images" / "val" / "100.jpg"


def test_path_image_and_array_give_the_same_map(segmenter: Segmenter, photo: Path) -> None:
    expected = segmenter.predict(photo)
    assert expected.shape == (48, 64)
    assert expected.dtype == np.uint8
    assert len(np.unique(expected)) > 1
    image = Image.open(photo)
    pixels = np.asarray(image)
    opaque = np.dstack([pixels, np.full((48, 64), 255, np.uint8)])
    for given in (str(photo), image, pixels, opaque, pixels[::-1][::-1]):
        assert np.array_equal(segmenter.predict(given), expected)


def test_a_grey_array_is_a_grey_picture(segmenter: Segmenter, photo: Path) -> None:
    grey = np.asarray(Image.open(photo).convert("L"))
    assert np.array_equal(segmenter.predict(grey), segmenter.predict(np.dstack([grey] * 3)))


@pytest.mark.parametrize("size", [(1, 1), (300, 1), (7, 5), (640, 480), (33, 200)])
def test_the_map_has_the_size_of_the_picture(segmenter: Segmenter, size: tuple[int, int]) -> None:
    assert segmenter.predict(Image.new("RGB", size, (200, 30, 30))).shape == (size[1], size[0])


def test_a_turned_photo_gives_an_upright_map(segmenter: Segmenter, photo: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(photo)
    expected = segmenter.predict(upright)
    assert expected.shape == (48, 64)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "t.png", exif=exif)
    assert np.array_equal(segmenter.predict(tmp_path / "t.png"), expected)
    with Image.open(tmp_path / "t.png") as turned:  # as the file is, so is the picture that Pillow makes of it
        assert turned.size == (48, 64)
        assert np.array_equal(segmenter.predict(turned), expected)
        assert turned.size == (48, 64)
        assert segmenter.predict(np.asarray(turned)).shape == (64, 48)  # an array has no EXIF


def test_what_is_no_picture_is_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    with pytest.raises(UnreadableImageError, match=r"x\.jpg"):
        segmenter.predict(tmp_path / "x.jpg")


def test_prediction_is_the_nearest_centroid_of_each_enlarged_cell(segmenter: Segmenter, photo: Path) -> None:
    image = Image.open(photo)
    height, width = whole_size(48, 64, 32)
    pixels = torch.from_numpy(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy())
    with torch.no_grad():
        z = F.normalize(segmenter.method.predict_features(pixels[None].float() / 255).float(), dim=1)
    weight, bias = segmenter.classifier
    logits = torch.einsum("bdhw,kd->bkhw", z, weight) + bias[None, :, None, None]
    expected = F.interpolate(logits, (48, 64), mode="bilinear", align_corners=False).argmax(1)[0].numpy()
    assert (predicted_clusters(segmenter, image) == expected).mean() > 0.999


@pytest.mark.parametrize("size", [(48, 64), (31, 17), (8, 8), (100, 9)])
@pytest.mark.parametrize("chunk", [None, 1, 500])
def testenlarged_argmax_is_interpolate_and_argmax(
    size: tuple[int, int], chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk is not None:
        monkeypatch.setattr(enlarging, "_CHUNK", chunk)
    logits = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    got = enlarged_argmax(logits, size)
    assert got.shape == (2, *size)
    chosen = expected.gather(1, got[:, None])[:, 0]
    assert torch.allclose(chosen, expected.max(1).values, atol=1e-5)  # but for ties of rounding
    assert (got == expected.argmax(1)).float().mean() > 0.999


def testenlarged_argmax_shrinks_with_antialiasing() -> None:
    logits = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(logits, (5, 7), mode="bilinear", align_corners=False, antialias=True).argmax(1)
    assert torch.equal(enlarged_argmax(logits, (5, 7)), expected)


def test_without_an_evaluation_values_are_clusters(tiny_unlabelled: Path, photo: Path) -> None:
    segmenter = Segmenter.load(tiny_unlabelled)
    assert segmenter.names == ("cluster 0", "cluster 1", "cluster 2")
    assert segmenter.colors == palette(3)
    assert np.array_equal(segmenter.predict(photo), predicted_clusters(segmenter, Image.open(photo)))


@pytest.fixture(scope="module")
def tiny_unlabelled(tiny: object, labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config: Config = tiny(f"data.root={labelled_folder / 'images'}", "train.epochs=0")  # type: ignore[operator]
    return api.train(config, tmp_path_factory.mktemp("unlabelled") / "run")


def test_after_an_evaluation_values_are_classes(segmenter: Segmenter, photo: Path) -> None:
    assert segmenter.names[:3] == ("red", "green", "blue")  # a cluster of IoU below 5 % follows, without a class
    assert segmenter.colors[:3] == ((220, 40, 40), (40, 180, 60), (60, 80, 220))


def test_clusters_without_a_class_come_after_the_classes(segmenter: Segmenter, photo: Path) -> None:
    clusters = predicted_clusters(segmenter, Image.open(photo))
    segmenter.name_clusters(CLASSES, np.array([1, -1, 0]))  # K = 3 clusters, 2 classes
    assert segmenter.names == ("a", "b", "cluster 1")
    assert segmenter.colors == ((1, 2, 3), (255, 128, 0), palette(2)[1])
    assert np.array_equal(segmenter.predict(photo), np.array([1, 2, 0])[clusters])


def test_fewer_clusters_than_classes_leave_classes_unpredicted(segmenter: Segmenter, photo: Path) -> None:
    clusters = predicted_clusters(segmenter, Image.open(photo))
    five = ClassMap(tuple("abcde"), ("#000000",) * 5)
    segmenter.name_clusters(five, np.array([4, 0, 2]))
    assert segmenter.names == tuple("abcde")
    assert np.array_equal(segmenter.predict(photo), np.array([4, 0, 2])[clusters])


def test_more_than_256_values_need_16_bits(segmenter: Segmenter, photo: Path) -> None:
    many = ClassMap(tuple(f"c{i}" for i in range(300)), ("#000000",) * 300, ignore=-1)
    segmenter.name_clusters(many, np.array([299, 0, 257]))
    labels = segmenter.predict(photo)
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) <= {299, 0, 257}


def test_predicting_leaves_the_network_in_its_mode(segmenter: Segmenter) -> None:
    state = {name: value.clone() for name, value in segmenter.method.state_dict().items()}
    for mode in (True, False):
        segmenter.method.train(mode)
        segmenter.clusters(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), (32, 32))
        assert segmenter.method.training is mode
    assert all(torch.equal(value, state[name]) for name, value in segmenter.method.state_dict().items())
