"""The cache of views: what it returns, within its budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from picie.training.view_cache import ViewCache

SHAPES = ((3, 4, 5), (7, 2, 2))  # of one image: 4 * (60 + 28) bytes


NO_PICTURE = torch.zeros(0)


def cached(budget: float) -> ViewCache:
    """A cache for levels alone, as with a frozen backbone."""
    return ViewCache(budget, fixed=True, n=100)


def holds(cache: ViewCache, indices: np.ndarray, views: list[int] | range) -> bool:
    return cache.find(indices, views) == "levels"


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
    cache = cached(1e6)
    first, second, other = levels(3, 0, dtype), levels(2, 1, dtype), levels(3, 2, dtype)
    cache.put(indices(5, 2, 9), 0, [t.contiguous(memory_format=layout) for t in first], NO_PICTURE)
    cache.put(indices(1, 7), 0, second, NO_PICTURE)
    cache.put(indices(5, 2, 9), 1, other, NO_PICTURE)
    taken = cache.get("levels", indices(7, 9, 1, 5), 0)
    for found, a, b in zip(taken, first, second, strict=True):
        assert torch.equal(found, torch.stack([b[1], a[2], b[0], a[0]]))
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
    for found, expected in zip(cache.get("levels", indices(2), 1), other, strict=True):
        assert torch.equal(found, expected[1:2])


def test_what_is_cache_does_not_change_with_what_was_put() -> None:
    cache, given = cached(1e6), levels(2)
    expected = [t.clone() for t in given]
    cache.put(indices(0, 1), 0, given, NO_PICTURE)
    for tensor in given:
        tensor.zero_()
    assert all(map(torch.equal, cache.get("levels", indices(0, 1), 0), expected))


def test_a_batch_is_held_if_all_its_views_of_all_its_images_are() -> None:
    cache = cached(1e6)
    cache.put(indices(3, 4), 0, levels(2), NO_PICTURE)
    cache.put(indices(4), 1, levels(1), NO_PICTURE)
    assert holds(cache, indices(4, 3), [0])
    assert holds(cache, indices(4), range(2))
    assert not holds(cache, indices(4, 3), range(2))
    assert not holds(cache, indices(3, 5), [0])
    assert not holds(cache, indices(), [0])


def test_what_does_not_fit_is_not_cache_and_leaves_room_for_what_does() -> None:
    cache = cached(size(levels(3)))
    cache.put(indices(0, 1), 0, levels(2), NO_PICTURE)
    cache.put(indices(2, 3), 0, levels(2), NO_PICTURE)  # one of the two would fit
    assert holds(cache, indices(0, 1), [0])
    assert not (holds(cache, indices(2), [0]) or holds(cache, indices(3), [0]))
    cache.put(indices(4), 0, levels(1), NO_PICTURE)
    assert holds(cache, indices(0, 1, 4), [0])


def test_of_a_view_all_tensors_are_cache_or_none() -> None:
    cache = cached(size(levels(2)) - 1)
    cache.put(indices(0, 1), 0, levels(2), NO_PICTURE)
    assert not holds(cache, indices(0), [0])


def test_clearing_gives_all_room_back() -> None:
    cache = cached(size(levels(2)))
    cache.put(indices(0, 1), 0, levels(2), NO_PICTURE)
    cache.clear()
    assert not holds(cache, indices(0, 1), [0])
    cache.put(indices(2, 3), 0, levels(2, 1), NO_PICTURE)
    assert all(map(torch.equal, cache.get("levels", indices(2, 3), 0), levels(2, 1)))


@pytest.mark.parametrize(("frozen", "n", "kind"), [(False, 2, "pictures"), (False, 3, None), (True, 2, "levels")])
def test_training_finds_all_pictures_or_none_and_the_levels_of_a_frozen_backbone(
    frozen: bool, n: int, kind: str | None
) -> None:
    picture = torch.rand(1, 3, 8, 8)
    budget = 2 * (size(levels(1)) + picture.nbytes)
    cache = ViewCache(budget, frozen, n)
    for view in range(2):
        cache.put(indices(4), view, levels(1, view), picture + view)
    assert cache.find(indices(4), range(2)) == "levels"
    cache.finish_labels()
    assert cache.find(indices(4), range(2)) == kind
    if kind == "pictures":
        assert torch.equal(cache.get("pictures", indices(4), 1)[0], picture + 1)
    cache.clear()
    assert cache.find(indices(4), range(2)) is None
