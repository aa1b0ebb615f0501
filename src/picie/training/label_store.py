"""Where pseudo-labels are kept: one file, which a stopped run goes on with."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie.errors import InputError
from picie.runtime import distributed
from picie.runtime.device import to_device

_NEEDED = "is needed to go on within an epoch,"


class PseudoLabelStore:
    """The pseudo-labels of an epoch in one memory-mapped .npy file: (M, N, h, w), uint8, or uint16 where K > 256.

    M is views times heads: the first head's views, then the second's. Of several processes the main one writes, for pages of a
    file on a network are no place to write together. The others read the file: all machines must share the folder.

    Args:
        path: the file.
        shape: (M, N, h, w).
        k: number of clusters, the largest of any head.
        keep: open the labels that are there, for an epoch that was begun; otherwise begin a new file.

    Raises:
        InputError: `keep`, and there is no such file of this shape.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], k: int, keep: bool = False) -> None:
        self._path, self._dtype = path, np.dtype(np.uint8 if k <= 256 else np.uint16)
        if not keep:
            if distributed.is_main():
                self._map = np.lib.format.open_memmap(path, mode="w+", dtype=self._dtype, shape=shape)
            return
        try:
            np.lib.format.open_memmap(path, mode="r")  # refuses a file cut short, which "r+" would lengthen with zeros
            self._map = np.lib.format.open_memmap(path, mode="r+" if distributed.is_main() else "r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: {_NEEDED} but cannot be read; put it back or train anew") from error
        if self._map.shape != shape or self._map.dtype != self._dtype:
            raise InputError(f"{path}: {_NEEDED} but belongs to another run; put the right one back or train anew")

    def write(self, row: int, indices: np.ndarray, labels: Tensor) -> None:
        """Store `labels` (B, h, w) of the images `indices` as the row-th of the M; of several processes each brings its own."""
        narrow = labels.to(torch.uint8 if self._dtype == np.uint8 else torch.int32)  # before they leave a GPU
        for theirs, values in distributed.gather_object((indices, narrow.cpu().numpy().astype(self._dtype, copy=False))):
            self._map[row, theirs] = values
            self._release()

    def read(self, indices: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """(M, B, h, w) int64 labels of the images `indices`, on `device`."""
        stored = torch.from_numpy(self._map[:, indices])
        self._release()
        if torch.device(device).type == "cuda":
            stored = stored.pin_memory()
        return to_device(stored, device).long()

    def _release(self) -> None:
        """Let go of the pages at hand, which the file's cache keeps: else memory would grow with the images."""
        self._map._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def flush(self) -> None:
        """Hand everything written to the operating system's care; from then on every process can read it."""
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
