"""The file of pseudo-labels: what goes in comes out, and no other file is taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from picie.errors import InputError
from picie.training.label_store import PseudoLabelStore


@pytest.mark.parametrize(("k", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65535, np.uint16)])
def test_the_store_gives_back_what_it_was_given_in_the_smallest_type(tmp_path: Path, k: int, dtype: type) -> None:
    path = tmp_path / "labels.npy"
    labels = torch.randint(0, k, (2, 5, 3, 7), generator=torch.Generator().manual_seed(0))
    labels[0, 0, 0, 0], labels[1, 4, 2, 6] = 0, k - 1
    store = PseudoLabelStore(path, (2, 5, 3, 7), [k])
    for view in (1, 0):
        store.write(view, np.array([3, 0, 4]), labels[view, [3, 0, 4]])
        store.write(view, np.array([1, 2]), labels[view, [1, 2]])
    store.flush()
    assert store.read(np.arange(5)).dtype == torch.int64
    assert torch.equal(store.read(np.array([4, 2])), labels[:, [4, 2]])
    on_disk = np.load(path)
    assert on_disk.dtype == dtype
    assert np.array_equal(on_disk, labels.numpy())
    kept = PseudoLabelStore(path, (2, 5, 3, 7), [k], keep=True)  # opened again
    assert torch.equal(kept.read(np.arange(5)), labels)
    kept.write(1, np.array([2]), labels[1, [0]])
    kept.flush()
    labels[1, 2] = labels[1, 0]
    assert np.array_equal(np.load(path), labels.numpy())


@pytest.mark.parametrize(("shape", "k"), [((1, 2, 3, 3), 5), ((1, 2, 3, 4), 5), ((1, 2, 3, 3), 300)])
def test_a_store_that_is_not_to_be_kept_is_begun_anew(tmp_path: Path, shape: tuple[int, int, int, int], k: int) -> None:
    path = tmp_path / "labels.npy"
    PseudoLabelStore(path, (1, 2, 3, 3), [5]).write(0, np.array([0, 1]), torch.ones(2, 3, 3, dtype=torch.int64))
    fresh = PseudoLabelStore(path, shape, [k]).read(np.arange(2))
    assert fresh.shape == shape
    assert fresh.sum() == 0
    assert np.load(path).dtype == (np.uint8 if k <= 256 else np.uint16)


@pytest.mark.parametrize(
    ("shape", "k"), [((1, 2, 3, 4), 5), ((2, 2, 3, 3), 5), ((1, 3, 3, 3), 5), ((1, 2, 3, 3), 257), ((1, 2, 9, 1), 5)]
)
def test_a_store_to_be_kept_must_be_of_the_very_shape_and_type(
    tmp_path: Path, shape: tuple[int, int, int, int], k: int
) -> None:
    path = tmp_path / "labels.npy"
    PseudoLabelStore(path, (1, 2, 3, 3), [5]).write(0, np.array([0, 1]), torch.ones(2, 3, 3, dtype=torch.int64))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"labels\.npy: is needed .* belongs to another run; .* train anew$"):
        PseudoLabelStore(path, shape, [k], keep=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [None, 0, 5, 60, 128, -1])
def test_a_store_to_be_kept_must_be_there_and_whole(tmp_path: Path, left: int | None) -> None:
    """`left`: how many bytes of the file; None, no file."""
    path = tmp_path / "labels.npy"
    if left is not None:
        PseudoLabelStore(path, (1, 2, 3, 3), [5]).flush()
        path.write_bytes(path.read_bytes()[:left])
    before = path.read_bytes() if left is not None else None
    with pytest.raises(InputError, match=r"labels\.npy: is needed .* cannot be read; .* train anew$"):
        PseudoLabelStore(path, (1, 2, 3, 3), [5], keep=True)
    assert (path.read_bytes() if path.exists() else None) == before  # nothing is made up in its place


def test_the_labels_of_each_head_are_checked_against_its_own_clusters(tmp_path: Path) -> None:
    path, shape = tmp_path / "labels.npy", (4, 2, 3, 3)  # two views of two heads
    store = PseudoLabelStore(path, shape, [5, 9])
    store.write(3, np.array([1]), torch.full((1, 3, 3), 8))
    store.flush()
    PseudoLabelStore(path, shape, [5, 9], keep=True)
    store.write(1, np.array([1]), torch.full((1, 3, 3), 5))
    store.flush()
    with pytest.raises(InputError, match=r"labels\.npy: is needed .* holds labels of no cluster"):
        PseudoLabelStore(path, shape, [5, 9], keep=True)
