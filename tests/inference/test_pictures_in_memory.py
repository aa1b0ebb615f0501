"""What a segmenter accepts and returns: files, pictures, arrays, tensors, several of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.utils import draw_segmentation_masks

from picie import Segmenter
from picie.data.images import open_image
from picie.data.scaling import Reading
from picie.display.overlays import overlay
from picie.errors import InputError
from picie.inference.cells import CellClassifier
from picie.inference.picture_inputs import open_picture
from picie.inference.segments import Segments


@pytest.fixture(scope="module")
def segmenter(untrained: Path) -> Segmenter:
    return Segmenter.load(untrained, "cpu")


@pytest.fixture(scope="module")
def photo(labelled_folder: Path) -> Path:
    return labelled_folder / "images" / "val" / "100.jpg"


@pytest.fixture(scope="module")
def pixels(photo: Path) -> np.ndarray:
    return np.asarray(Image.open(photo))


@pytest.fixture(scope="module")
def expected(segmenter: Segmenter, photo: Path) -> np.ndarray:
    labels = segmenter.predict(photo)
    assert len(np.unique(labels)) > 1
    return labels


def test_arrays_of_any_type_give_the_same_map(segmenter: Segmenter, pixels: np.ndarray, expected: np.ndarray) -> None:
    wide = (pixels.astype(np.uint16) << 8) | pixels  # 255 becomes 65535
    for given in (wide, pixels / 255, (pixels / 255).astype(np.float32), np.dstack([pixels / 255, np.ones(pixels.shape[:2])])):
        got = segmenter.predict(given)
        assert isinstance(got, np.ndarray)
        assert np.array_equal(got, expected), given.dtype


def test_tensors_give_tensors(segmenter: Segmenter, pixels: np.ndarray, expected: np.ndarray) -> None:
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for given in (tensor, tensor / 255, (tensor / 255).double(), tensor.to(torch.uint16) * 257):
        labels = segmenter.predict(given)
        assert isinstance(labels, torch.Tensor)
        assert labels.dtype == torch.uint8
        assert np.array_equal(labels.numpy(), expected)
    features = segmenter.features(tensor)
    assert torch.nn.Linear(8, 2)(features.permute(1, 2, 0)).sum().backward() is None  # usable in training


def test_grey_pictures_have_one_channel_or_none(segmenter: Segmenter, pixels: np.ndarray) -> None:
    grey = pixels[..., 1]
    rgb = segmenter.predict(np.dstack([grey] * 3))
    for given in (grey, grey[..., None]):
        assert np.array_equal(segmenter.predict(given), rgb)
    for given in (torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None]):
        assert np.array_equal(segmenter.predict(given).numpy(), rgb)


def test_an_image_of_torchvision_gives_a_mask(segmenter: Segmenter, pixels: np.ndarray, expected: np.ndarray) -> None:
    image = tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    mask = segmenter.predict(image)
    assert isinstance(mask, tv_tensors.Mask)
    assert np.array_equal(mask.numpy(), expected)
    every = torch.stack([mask == value for value in range(len(segmenter.names))]).as_subclass(torch.Tensor)
    drawn = draw_segmentation_masks(image, every, colors=list(segmenter.colors), alpha=1.0)
    assert np.array_equal(drawn.permute(1, 2, 0).numpy(), np.array(segmenter.colors, dtype=np.uint8)[expected])


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_pillow_image_of_many_bits_is_scaled_like_its_file(tmp_path: Path, mode: str) -> None:
    values = np.arange(64 * 64).reshape(64, 64) % 1000
    picture = Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    assert picture.mode == mode
    picture.save(tmp_path / "deep.tif")
    reading = Reading({"uint16": (0.0, 65535.0), "int32": (0.0, 65535.0), "float32": (0.0, 65535.0)})
    made = open_picture(picture, reading)
    assert np.asarray(made).max() == 4  # 255 by its own values
    assert np.array_equal(np.asarray(made), np.asarray(open_image(tmp_path / "deep.tif", reading)))


def test_a_list_gives_a_list(segmenter: Segmenter, photo: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    small, turned = pixels[:30, :50], pixels.transpose(1, 0, 2)
    given: list[Any] = [photo, str(photo), Image.open(photo), small, turned, torch.from_numpy(small.copy()).permute(2, 0, 1)]
    alone = [segmenter.predict(one) for one in given]
    batches = []
    encode = CellClassifier.encode
    monkeypatch.setattr(CellClassifier, "encode", lambda self, x: batches.append(tuple(x.shape)) or encode(self, x))
    for several in (given, tuple(given)):
        results = segmenter.predict(several, batch_size=4)
        assert isinstance(results, list)
        for one, together in zip(alone, results, strict=True):
            assert type(together) is type(one)
            assert (np.asarray(together) == np.asarray(one)).mean() > 0.999
    # batches of 4 and 2, those of one size computed together
    assert batches[: len(batches) // 2] == [(3, 3, 32, 43), (1, 3, 32, 53), (1, 3, 43, 32), (1, 3, 32, 53)]
    assert segmenter.predict([]) == []


def test_a_stack_gives_a_stack(segmenter: Segmenter, pixels: np.ndarray, expected: np.ndarray) -> None:
    stack = np.stack([pixels, pixels[::-1]])
    labels = segmenter.predict(stack)
    assert labels.shape == (2, *expected.shape)
    assert (labels[0] == expected).mean() > 0.999
    tensors = segmenter.predict(torch.from_numpy(stack.copy()).permute(0, 3, 1, 2))
    assert np.array_equal(tensors.numpy(), labels)
    assert segmenter.probabilities(stack).shape == (2, len(segmenter.names), *expected.shape)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"uint8 \(4, 4, 2\) is not a picture; give \(H, W\), \(H, W, 3\)"),
        (np.zeros((3, 4, 5), np.uint8), r"its channels come first: image.transpose\(1, 2, 0\) moves them"),
        (np.zeros(4, np.uint8), "is not a picture"),
        (np.zeros((0, 4, 3), np.uint8), "is not a picture"),
        (np.zeros((4, 4, 3), np.int64), r"int64 \(4, 4, 3\) is not a picture"),
        (np.zeros((4, 4), bool), "is not a picture"),
        (np.full((4, 4, 3), 200.0), r"floats from 200 to 200; give values in \[0, 1\]"),
        (torch.full((3, 4, 4), -1.5), r"floats from -1.5 to -1.5; give values in \[0, 1\], before any normalisation"),
        (torch.zeros(7, 5, 3), r"its channels come last: image.permute\(2, 0, 1\) moves them"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64 .* is not a picture"),
        (None, "NoneType is not a picture; give a file"),
        ([7], "int is not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(segmenter: Segmenter, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmenter.predict(given)


def test_a_batch_has_at_least_one_picture(segmenter: Segmenter, pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="batch_size = 0"):
        segmenter.predict([pixels], batch_size=0)


def test_probabilities_sum_to_one_and_agree_with_the_map(
    segmenter: Segmenter, pixels: np.ndarray, expected: np.ndarray
) -> None:
    probabilities = segmenter.probabilities(pixels)
    assert probabilities.shape == (len(segmenter.names), *expected.shape)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
    assert (probabilities.argmax(0) == expected).mean() > 0.999
    z = torch.from_numpy(segmenter.features(pixels))
    cells = torch.einsum("dhw,kd->khw", z, segmenter.classifier[0]) + segmenter.classifier[1][:, None, None]
    logits = torch.nn.functional.interpolate(cells[None], expected.shape, mode="bilinear")[0]
    in_clusters = (logits / segmenter.config.loss.temperature).softmax(0).numpy()
    assert np.allclose(probabilities[segmenter.value_of_cluster], in_clusters, atol=1e-4)  # one cluster a segment


def test_the_margin_is_the_difference_of_the_best_two(segmenter: Segmenter, photo: Path, expected: np.ndarray) -> None:
    maps = segmenter.predict_with_margin(photo)
    best = np.sort(segmenter.probabilities(photo), axis=0)[::-1]
    assert np.array_equal(maps.labels, expected)
    assert maps.margin is not None
    assert maps.margin.dtype == np.uint8
    assert np.abs(maps.margin - 255 * (best[0] - best[1])).max() <= 0.51


def test_a_merged_segment_has_the_probability_of_its_clusters(untrained: Path, pixels: np.ndarray) -> None:
    segmenter = Segmenter.load(untrained, "cpu")
    segmenter.take_segments(Segments.plain(3))
    before = segmenter.probabilities(pixels)
    segmenter.take_segments(Segments(("a", "b"), ("#000000", "#ffffff"), (0, 1, 0)))
    assert np.allclose(segmenter.probabilities(pixels), [before[0] + before[2], before[1]], atol=1e-6)


def test_features_have_unit_norm(segmenter: Segmenter, pixels: np.ndarray) -> None:
    z = segmenter.features(pixels)
    assert (z.dtype, z.shape[0]) == (np.float32, 8)
    assert np.allclose((z**2).sum(0), 1, atol=1e-5)
    assert np.array_equal(z, segmenter.encode(segmenter.to_pixels(Image.fromarray(pixels)))[0].numpy())


def test_an_overlay_shows_the_map(segmenter: Segmenter, photo: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
    drawn = overlay(Image.fromarray(pixels), expected, segmenter.colors)
    assert segmenter.overlay(photo).tobytes() == drawn.tobytes()
    assert segmenter.overlay(pixels, expected).tobytes() == drawn.tobytes()
    with pytest.raises(InputError, match="labels: are"):
        segmenter.overlay(pixels, expected[1:])


def test_a_call_returns_segments_as_a_pipeline_does(segmenter: Segmenter, photo: Path, expected: np.ndarray) -> None:
    segments = segmenter(photo)
    probabilities = segmenter.probabilities(photo)
    assert [s["label"] for s in segments] == [segmenter.names[value] for value in np.unique(expected)]
    for value, segment in zip(np.unique(expected), segments, strict=True):
        assert set(segment) == {"score", "label", "mask"}
        assert (segment["mask"].mode, segment["mask"].size) == ("L", (64, 48))
        inside = np.asarray(segment["mask"]) == 255
        assert np.array_equal(inside, expected == value)
        assert segment["score"] == pytest.approx(probabilities[value][inside].mean(), abs=1e-5)
    both = segmenter([photo, Image.open(photo)])
    assert [[s["label"] for s in one] for one in both] == [[s["label"] for s in segments]] * 2


def test_a_segmenter_describes_itself(segmenter: Segmenter) -> None:
    text = repr(segmenter)
    assert "red, green, blue" in text
    assert "test_efficientnet" in text
    assert "cpu" in text
    page = segmenter._repr_html_()
    assert all(name in page for name in segmenter.names)
    segmenter = Segmenter(segmenter.method, segmenter.classifier, segmenter.config, segmenter.engine)
    segmenter.take_segments(Segments(("<b>", "x"), ("#000000", "#ffffff"), (0, 1, 1)))
    assert "<b>" not in segmenter._repr_html_()


def test_to_moves_it(segmenter: Segmenter, photo: Path, expected: np.ndarray) -> None:
    assert segmenter.to("cpu") is segmenter
    assert segmenter.to(torch.device("cpu")).device == torch.device("cpu")
    assert np.array_equal(segmenter.predict(photo), expected)
    with pytest.raises(InputError, match="unknown device"):
        segmenter.to("toaster")


def test_what_is_saved_predicts_the_same(untrained: Path, photo: Path, expected: np.ndarray, tmp_path: Path) -> None:
    segmenter = Segmenter.load(untrained, "cpu")
    segmenter.take_segments(Segments(("a", "b"), ("#010203", "#ffffff"), (0, 1, 0), user_defined=True))
    labels = segmenter.predict(photo)
    for path in (tmp_path / "model", tmp_path / "model.pt"):
        assert segmenter.save(path) == path
        saved = Segmenter.load(path, "cpu")
        assert (saved.names, saved.colors) == (("a", "b"), ((1, 2, 3), (255, 255, 255)))
        assert np.array_equal(saved.predict(photo), labels)
        with pytest.raises(InputError, match="exists already"):
            saved.save(path)
    assert (tmp_path / "model.pt").stat().st_size < (untrained / "checkpoint.pt").stat().st_size
    assert saved.kept["summary"]["images"] == 6
    assert "protocol" in saved.kept["summary"]
    with pytest.raises(InputError, match="not of a run"):
        Segmenter(saved.method, saved.classifier, saved.config, saved.engine).save(tmp_path / "other")


def test_a_saved_segmenter_is_a_run_for_the_commands(
    cli: Any, refused: Any, untrained: Path, photo: Path, tmp_path: Path
) -> None:
    Segmenter.load(untrained, "cpu").save(tmp_path / "model")
    status, _, _ = cli("predict", tmp_path / "model", photo, "--out", tmp_path / "out")
    assert status == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/100.png")), Segmenter.load(untrained).predict(photo))
    assert "holds no run" in refused("train", "--resume", tmp_path / "model")
