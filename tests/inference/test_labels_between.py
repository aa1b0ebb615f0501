"""Labels of pixels between cells: the arg max of all enlarged logits, computed where it is needed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.inference import enlarging
from picie.inference.enlarging import Axis, enlarged, enlarged_argmax, labels_between


def smooth(k: int, h: int, w: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Logits in which most cells agree with their neighbours, as in a picture."""
    coarse = torch.randn(batch, k, 3, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (h, w), mode="bicubic") + 0.1 * torch.randn(batch, k, h, w)


def dense(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The arg max of all enlarged logits, and the difference between the largest two."""
    full = torch.empty(*logits.shape[:2], *size)
    for rows, columns, part in enlarged(logits, size):
        full[:, :, rows, columns] = part
    best = full.topk(2, dim=1).values
    return full.max(1).indices, best[:, 0] - best[:, 1]


def check(logits: Tensor, size: tuple[int, int], labels: Tensor) -> None:
    """Labels may differ from the dense ones only where rounding decides."""
    expected, margin = dense(logits, size)
    different = labels != expected
    assert (margin[different] < 1e-5).all()
    assert different.float().mean() < 1e-4


@pytest.mark.parametrize("k", [2, 5, 27])
@pytest.mark.parametrize("size", [(200, 300), (133, 257), (10, 14), (11, 100), (60, 14)])
def test_labels_are_those_of_all_enlarged_logits(k: int, size: tuple[int, int]) -> None:
    logits = smooth(k, 10, 14, batch=2)
    (h, w), (height, width) = logits.shape[2:], size
    labels = labels_between(logits, Axis(0, height, h / height), Axis(0, width, w / width), torch.arange(k))
    check(logits, size, labels)
    assert len(labels.unique()) > 1


def test_many_clusters_and_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enlarging, "_PATCHES", 50)
    logits = smooth(300, 4, 5)
    check(logits, (60, 75), enlarged_argmax(logits, (60, 75)))  # too many clusters to compare all pairs


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2)])
def test_a_map_of_one_row_or_column(size: tuple[int, int]) -> None:
    for h, w in ((1, 1), (1, 2), (3, 1)):
        logits = smooth(3, h, w)
        check(logits, size, enlarged_argmax(logits, size))


def test_equal_clusters_leave_the_first() -> None:
    logits = smooth(2, 4, 4)
    twice = torch.cat([logits, logits], dim=1)
    assert torch.equal(enlarged_argmax(twice, (80, 80)), enlarged_argmax(logits, (80, 80)))


def test_a_part_of_the_pixels_from_a_part_of_the_cells() -> None:
    logits = smooth(6, 10, 14)
    whole = enlarged_argmax(logits, (200, 280))
    step = 1 / 20
    part = labels_between(logits[:, :, 2:8], Axis(60, 140, step, base=2), Axis(0, 280, step), torch.arange(6))
    assert torch.equal(part, whole[:, 60:140])


def test_values_take_the_place_of_clusters() -> None:
    logits = smooth(4, 5, 5)
    values = torch.tensor([7, 7, 0, 255], dtype=torch.uint8)
    labels = enlarged_argmax(logits, (100, 100), values)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, values[enlarged_argmax(logits, (100, 100))])
