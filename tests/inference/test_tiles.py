"""Labels of large pictures: tiles against the whole, and memory that does not grow with the height."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from picie import Config, Segmenter
from picie.config import with_overrides
from picie.data.rasters import Decoded, Rows
from picie.errors import InputError
from picie.inference import tiles
from picie.inference.tiles import Tiling, make_tiling, map_rows
from picie.runtime.device import Engine

K = 5


class Local(nn.Module):
    """Features in cells of 4 px that depend on pixels at most 6 px from the cell's centre."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(3))
        self.register_buffer("weight", weight - weight.mean((1, 2, 3), keepdim=True))

    def predict_features(self, images: Tensor) -> Tensor:
        return F.conv2d(F.avg_pool2d(images, 4), self.weight, padding=1)


@pytest.fixture
def local(tiny: Callable[..., Config]) -> Segmenter:
    centroids = F.normalize(torch.randn(K, 8, generator=torch.Generator().manual_seed(5)), dim=1)
    engine = Engine(torch.device("cpu"), "fp32")
    return Segmenter(Local(), (centroids, torch.zeros(K)), tiny(f"cluster.k={K}", "evaluate.scale=3"), engine)


def photo(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def predicted(segmenter: Segmenter, image: Image.Image, tiling: Tiling | None) -> np.ndarray:
    return np.concatenate([part.labels for part in map_rows(segmenter, Decoded(image), tiling)])


@pytest.mark.parametrize(("side", "overlap"), [(64, 32), (96, 32), (128, 64), (512, 32)])
def test_tiles_give_the_labels_of_the_whole_picture(local: Segmenter, side: int, overlap: int) -> None:
    image = photo(320, 224)
    local.config = with_overrides(local.config, ["evaluate.scale=7"])
    whole = local.predict(image)
    assert len(np.unique(whole)) == K
    assert np.array_equal(predicted(local, image, make_tiling(local, side, overlap, None)), whole)


def test_without_an_overlap_only_borders_of_tiles_differ(local: Segmenter) -> None:
    image = photo(256, 256)
    local.config = with_overrides(local.config, ["evaluate.scale=8"])
    different = predicted(local, image, make_tiling(local, 64, 0, None)) != local.predict(image)
    inner = np.abs((np.arange(256) + 0.5) % 64 - 32) < 22
    assert different.any()
    assert not different[np.ix_(inner, inner)].any()


@pytest.mark.parametrize("size", [None, 150, 500])
@pytest.mark.parametrize("shape", [(301, 207), (64, 500), (33, 31)])
def test_the_size_of_the_tiles_changes_nothing(local: Segmenter, size: int | None, shape: tuple[int, int]) -> None:
    image = photo(*shape)
    results = [predicted(local, image, make_tiling(local, side, 32, size)) for side in (64, 96, 1024)]
    assert results[0].shape == (shape[1], shape[0])
    for other in results[1:]:
        # A picture is scaled in parts, which differ by one grey level, so almost equally near clusters can change places.
        assert (results[0] == other).mean() > 0.999
        if size is None:
            assert np.array_equal(results[0], other)


@pytest.mark.parametrize("shape", [(1, 1), (300, 1), (1, 300), (7, 5)])
def test_a_strip_or_a_dot_is_padded(local: Segmenter, shape: tuple[int, int]) -> None:
    for size in (None, 3):
        assert predicted(local, photo(*shape), make_tiling(local, 64, 32, size)).shape == (shape[1], shape[0])


def test_parts_of_a_label_map_make_the_map_of_predict(local: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(400, 300)
    monkeypatch.setattr(tiles, "_OUTPUT_PIXELS", 400 * 7)
    monkeypatch.setattr(tiles, "_LOGITS", 1000)
    parts = list(map_rows(local, Decoded(image), None, margin=True))
    assert max(len(part.labels) for part in parts) == 7
    assert np.array_equal(np.concatenate([part.labels for part in parts]), local.predict(image))
    margin = np.concatenate([part.margin for part in parts if part.margin is not None])
    assert np.abs(margin.astype(int) - local.predict_with_margin(image).margin).max() <= 1


def test_tiles_give_the_margin_of_the_whole_picture(local: Segmenter) -> None:
    image = photo(320, 224)
    local.config = with_overrides(local.config, ["evaluate.scale=7"])
    parts = list(map_rows(local, Decoded(image), make_tiling(local, 96, 32, None), margin=True))
    whole = local.predict_with_margin(image)
    assert whole.margin is not None
    assert len(np.unique(whole.margin)) > 20
    margin = np.concatenate([part.margin for part in parts if part.margin is not None])
    assert np.abs(margin.astype(int) - whole.margin).max() <= 1
    assert np.array_equal(np.concatenate([part.labels for part in parts]), whole.labels)


class Recorded(Decoded):
    """Notes how many rows are asked for at once, and has no data on the left."""

    def __init__(self, image: Image.Image) -> None:
        super().__init__(image)
        self.most = 0

    def rows(self, top: int, bottom: int) -> Rows:
        self.most = max(self.most, bottom - top)
        valid = np.ones((bottom - top, self.width), np.bool_)
        valid[:, :200] = False
        return super().rows(top, bottom)[0], valid


def test_memory_is_that_of_a_row_of_tiles(local: Segmenter) -> None:
    for height in (256, 1024):
        raster = Recorded(photo(256, height))
        parts = list(map_rows(local, raster, make_tiling(local, 64, 32, None)))
        assert raster.most == 64
        assert sum(len(part.labels) for part in parts) == height


def test_tiles_without_data_are_not_computed(local: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = 0
    original = local.encode

    def counted(pixels: Tensor) -> Tensor:
        nonlocal computed
        computed += len(pixels)
        return original(pixels)

    monkeypatch.setattr(local, "encode", counted)
    raster = Recorded(photo(256, 64))
    list(map_rows(local, raster, make_tiling(local, 64, 0, None)))
    assert computed == 1  # of four


def _weights(length: int, tiling: Tiling) -> Iterator[Tensor]:
    axis = tiles._Axis.of(length, tiling)
    total = torch.zeros(axis.length // 4)
    for start, weight in zip(axis.starts, axis.weights(4), strict=True):
        total[start // 4 : start // 4 + len(weight)] += weight
    yield total


@pytest.mark.parametrize("length", [64, 65, 200, 999])
@pytest.mark.parametrize("overlap", [0, 32])
def test_weights_sum_to_one(length: int, overlap: int) -> None:
    for total in _weights(length, Tiling(64, overlap)):
        assert torch.allclose(total, torch.ones_like(total))


def test_options_that_do_not_fit_are_refused(trained: object, refused: Callable[..., str], tmp_path: object) -> None:
    def message(*options: object) -> str:
        return refused("predict", trained, trained, "--out", f"{tmp_path}/out", *options)

    assert "--tile 100: give a multiple of 32" in message("--tile", 100)
    assert "--overlap 96: give a multiple of 32, at most half of --tile, 64" in message("--tile", 128, "--overlap", 96)
    assert "give --tile too" in message("--overlap", 32)
    assert "--bands 1,2: give three bands" in message("--bands", "1,2")


def test_the_overlap_is_a_quarter_or_a_stride_unless_given(local: Segmenter) -> None:
    overlaps = {side: make_tiling(local, side, None, None).overlap for side in (32, 64, 96, 160, 512)}
    assert overlaps == {32: 0, 64: 32, 96: 32, 160: 32, 512: 128}
    with pytest.raises(InputError, match="multiple of 32"):
        make_tiling(local, 512, 100, None)
