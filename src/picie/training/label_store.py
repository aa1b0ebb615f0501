"""The pseudo-labels of an epoch on disk: one file, from which a stopped run continues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie.errors import InputError
from picie.runtime import distributed
from picie.runtime.atomic_write import reserve
from picie.runtime.device import to_device
from picie.runtime.system_calls import release_pages

_NEEDED = "is needed to resume within an epoch,"


class PseudoLabelStore:
    """The pseudo-labels of an epoch in a memory-mapped .npy file.

    The file holds (M, N, h, w) uint8, or uint16 if a head has more than 256 clusters.

    M is views times heads: the first head's views, then the second's. With several processes only
    the main process writes, because several writers could damage a page of a file on a network
    drive. The others read the file, so all machines must share the folder.

    Args:
        path: the file.
        shape: (M, N, h, w).
        ks: the number of clusters of each head.
        keep: open the existing labels of an unfinished epoch; otherwise create a new file.

    Raises:
        InputError: `keep` is set, and there is no such file of this shape, or it holds labels of
            clusters that its head does not have.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], ks: Sequence[int], keep: bool = False) -> None:
        self._path, self._dtype = path, np.dtype(np.uint8 if max(ks) <= 256 else np.uint16)
        self._cells = math.prod(shape[2:])
        if not keep:
            if distributed.is_main():
                _create(path, shape, self._dtype)
                self._map = np.lib.format.open_memmap(path, mode="r+")
            return
        try:
            # Rejects a truncated file, which "r+" would extend with zeros.
            np.lib.format.open_memmap(path, mode="r")
            self._map = np.lib.format.open_memmap(path, mode="r+" if distributed.is_main() else "r")
        except Exception as error:  # numpy evaluates the header, and a damaged one may raise anything
            raise InputError(f"{path}: {_NEEDED} but cannot be read; put it back or train anew") from error
        if self._map.shape != shape or self._map.dtype != self._dtype:
            raise InputError(f"{path}: {_NEEDED} but belongs to another run; put the right one back or train anew")
        limits = np.repeat(ks, shape[0] // len(ks))
        if any(int(images.max(initial=0)) >= k for row, k in zip(self._map, limits, strict=True) for images in row):
            raise InputError(f"{path}: {_NEEDED} but holds labels of no cluster; it is damaged: put it back or train anew")

    def write(self, row: int, indices: np.ndarray, labels: Tensor) -> None:
        """Store `labels` (B, h, w) of the images `indices` in row `row` of the M.

        Each process passes its own images.
        """
        # Convert on the GPU, before the copy.
        narrow = labels.to(torch.uint8 if self._dtype == np.uint8 else torch.int32)
        for images, values in distributed.gather_object((indices, narrow.cpu().numpy().astype(self._dtype, copy=False))):
            self._map[row, images] = values
            # Otherwise memory would grow with the number of images.
            release_pages(self._map)

    def read(self, indices: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """(M, B, h, w) int64 labels of the images `indices`, on `device`."""
        stored = torch.from_numpy(self._map[:, indices])
        release_pages(self._map)
        if torch.device(device).type == "cuda":
            stored = stored.pin_memory()
        return to_device(stored, device).long()

    @property
    def cells(self) -> int:
        """The number of cells of an image."""
        return self._cells

    def flush(self) -> None:
        """Flush the labels to disk; afterwards every process can read them."""
        if distributed.is_main():
            self._map.flush()
        distributed.barrier()
        if not distributed.is_main():
            self._map = self._open_for_reading()

    def _open_for_reading(self) -> np.memmap[Any, Any]:
        try:
            return np.lib.format.open_memmap(self._path, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self._path}: cannot be read by every process of the run; give an --out that all its machines share"
            ) from error


def _create(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create an .npy file with all its bytes on the disk. Raises `OSError` if it is full."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        reserve(file, path, file.tell() + math.prod(shape) * dtype.itemsize)
