"""A sample of cells: which ones, and with which class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from picie.data.base import ClassMap
from picie.errors import InputError, UnreadableImageError
from picie.inference import sampling
from picie.inference.sampling import SampleSpec, centre_square, sample_cells
from picie.runtime.progress import Progress

CLASSES = ClassMap(tuple(f"class {i}" for i in range(65)), ("#000000",) * 65)


class Blocks:
    """Grey pictures, 64 x 64, of value 10 i.

    The centre of the j-th of 8 x 8 cells has class j + 1, all around it class 0.
    """

    classes: ClassMap | None = CLASSES

    def __init__(self, n: int, broken: tuple[int, ...] = (), unlabelled: int = 0) -> None:
        self.n, self.broken, self.unlabelled, self.opened = n, broken, unlabelled, 0

    def __len__(self) -> int:
        return self.n

    def name(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> Image.Image:
        if index in self.broken:
            raise UnreadableImageError("broken")
        return Image.new("RGB", (64, 64), (10 * index,) * 3)

    def label(self, index: int) -> np.ndarray:
        self.opened += 1
        label = np.zeros((64, 64), np.uint8)
        label[4::8, 4::8] = np.arange(1, 65).reshape(8, 8)
        label[: 8 * self.unlabelled] = 255
        return label


def cells(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 2, 8, 8): the picture's value and the cell's number."""
    number = torch.arange(64.0).view(8, 8).expand(len(pixels), 8, 8)
    return torch.stack([pixels[:, 0, ::4, ::4].float(), number], dim=1)


def sampled(dataset: Blocks, labelled: bool, images: int = 4096, points: int = 2**17) -> tuple[np.ndarray, np.ndarray]:
    with Progress(False) as bars:
        sample = sample_cells(cells, dataset, SampleSpec(centre_square(32), 0, images, points, labelled), bars)
    assert np.array_equal(sample.points[:, 0], 10.0 * sample.images)  # each point says which image it is from
    return sample.points.numpy(), sample.classes.numpy()


def test_every_cell_with_the_class_at_its_centre_where_they_are_few() -> None:
    points, classes = sampled(Blocks(19, broken=(0, 7)), labelled=True)
    expected = {(10.0 * i, float(cell)) for i in range(19) if i not in (0, 7) for cell in range(64)}
    assert len(points) == len(expected)
    assert set(map(tuple, points)) == expected
    assert np.array_equal(classes, points[:, 1] + 1)
    assert classes.dtype == np.int64


def test_cells_without_a_class_are_left_out_only_where_labels_are_asked_for() -> None:
    points, classes = sampled(Blocks(2, unlabelled=5), labelled=True)
    assert sorted(points[:, 1]) == sorted(2 * list(range(40, 64)))
    assert np.array_equal(classes, points[:, 1] + 1)
    dataset = Blocks(2, unlabelled=5)
    points, classes = sampled(dataset, labelled=False)
    assert (len(points), dataset.opened) == (128, 0)
    assert not classes.any()


def test_an_equal_share_of_each_of_a_bounded_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = sampled(Blocks(20), True, 10, 109)
    values, counts = np.unique(points[:, 0], return_counts=True)
    assert (len(values), set(counts)) == (10, {10})
    assert len(np.unique(points, axis=0)) == 100
    assert len({tuple(sorted(points[points[:, 0] == value, 1])) for value in values}) == 10  # each image's own
    assert np.array_equal(points, sampled(Blocks(20), True, 10, 109)[0])
    monkeypatch.setattr(sampling, "_MAX_VALUES", 60)  # two per point
    assert len(sampled(Blocks(20), True, 10, 109)[0]) == 30


def test_no_cell_at_all_is_refused() -> None:
    for dataset in (Blocks(2, broken=(0, 1)), Blocks(2, unlabelled=8)):
        with pytest.raises(InputError, match="no cell can be sampled"):
            sampled(dataset, labelled=True)
