"""What one pass leaves for the next: kept as it was made, within the budget, and used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from picie.config import Config
from picie.models.extractor import Extractor
from picie.training import api, pseudo_labels
from picie.training.feature_source import Kept
from picie.training.trainer import Run

SHAPES = ((3, 4, 5), (7, 2, 2))  # of one image: 4 * (60 + 28) bytes


def indices(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def levels(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=generator).to(dtype) for shape in SHAPES]


def size(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_are_taken_in_any_order_as_they_were_put(dtype: torch.dtype, layout: torch.memory_format) -> None:
    kept = Kept(1e6)
    first, second, other = levels(3, 0, dtype), levels(2, 1, dtype), levels(3, 2, dtype)
    kept.put(indices(5, 2, 9), 0, [t.contiguous(memory_format=layout) for t in first])
    kept.put(indices(1, 7), 0, second)
    kept.put(indices(5, 2, 9), 1, other)
    taken = kept.take(indices(7, 9, 1, 5), 0)
    for found, a, b in zip(taken, first, second, strict=True):
        assert torch.equal(found, torch.stack([b[1], a[2], b[0], a[0]]))
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
    for found, expected in zip(kept.take(indices(2), 1), other, strict=True):
        assert torch.equal(found, expected[1:2])


def test_what_is_kept_does_not_change_with_what_was_put() -> None:
    kept, given = Kept(1e6), levels(2)
    expected = [t.clone() for t in given]
    kept.put(indices(0, 1), 0, given)
    for tensor in given:
        tensor.zero_()
    assert all(map(torch.equal, kept.take(indices(0, 1), 0), expected))


def test_a_batch_is_held_if_all_its_views_of_all_its_images_are() -> None:
    kept = Kept(1e6)
    kept.put(indices(3, 4), 0, levels(2))
    kept.put(indices(4), 1, levels(1))
    assert kept.holds(indices(4, 3), [0])
    assert kept.holds(indices(4), range(2))
    assert not kept.holds(indices(4, 3), range(2))
    assert not kept.holds(indices(3, 5), [0])
    assert not kept.holds(indices(), [0])


def test_what_does_not_fit_is_not_kept_and_leaves_room_for_what_does() -> None:
    kept = Kept(size(levels(3)))
    kept.put(indices(0, 1), 0, levels(2))
    kept.put(indices(2, 3), 0, levels(2))  # one of the two would fit
    assert kept.holds(indices(0, 1), [0])
    assert not (kept.holds(indices(2), [0]) or kept.holds(indices(3), [0]))
    kept.put(indices(4), 0, levels(1))
    assert kept.holds(indices(0, 1, 4), [0])


def test_of_a_view_all_tensors_are_kept_or_none() -> None:
    kept = Kept(size(levels(2)) - 1)
    kept.put(indices(0, 1), 0, levels(2))
    assert not kept.holds(indices(0), [0])


def test_clearing_gives_all_room_back() -> None:
    kept = Kept(size(levels(2)))
    kept.put(indices(0, 1), 0, levels(2))
    kept.clear()
    assert not kept.holds(indices(0, 1), [0])
    kept.put(indices(2, 3), 0, levels(2, 1))
    assert all(map(torch.equal, kept.take(indices(2, 3), 0), levels(2, 1)))


@pytest.mark.parametrize(
    ("options", "label", "train"),
    [
        ((), 0, 6),
        (("model.freeze=true",), 0, 0),
        (("cluster.batchnorm=train",), 4, 6),  # labels are made in evaluation mode
        (("cluster.batchnorm=train", "model.freeze=true"), 0, 0),  # where a frozen backbone always is
        (("run.keep_gb=0",), 4, 6),
        (("run.keep_gb=0", "model.freeze=true"), 4, 6),
    ],
)
def test_later_passes_ask_the_backbone_for_nothing_that_clustering_left(
    tiny: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    label: int,
    train: int,
) -> None:
    """Two views of 6 images, in batches of 4 and in steps of 2."""
    asked: Counter[str] = Counter()
    at = ["elsewhere"]

    def spy(owner: Any, attribute: str, name: str) -> None:
        plain = getattr(owner, attribute)

        def marked(*arguments: Any, **named: Any) -> Any:
            at.append(name)
            try:
                return plain(*arguments, **named)
            finally:
                at.pop()

        monkeypatch.setattr(owner, attribute, marked)

    plain_levels = Extractor.levels

    def counted(network: Extractor, images: Tensor) -> Any:
        asked[at[-1]] += 1
        return plain_levels(network, images)

    monkeypatch.setattr(Extractor, "levels", counted)
    spy(pseudo_labels, "_cluster", "cluster")
    spy(pseudo_labels, "_label", "label")
    spy(Run, "_train", "train")
    api.train(tiny("train.epochs=1", "cluster.refit=0", *options), tmp_path / "run")
    assert (asked["cluster"], asked["label"], asked["train"]) == (4, label, train)
