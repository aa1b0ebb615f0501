"""From a dataset to batches of frames: decoded once, kept as bytes on disk, read ahead in threads.

Every pass of every epoch starts from the same frame of an image; only the draws differ. So each image is decoded and
resized once, at the start of a run, and its frame kept in one nameless file in the run's folder, which is read with positioned
reads: memory does not grow with the dataset, and the file is gone with the process, however that ends.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image
from rich.filesize import decimal
from torch import Tensor

from picie.data.base import Dataset
from picie.data.images import centre_frame
from picie.errors import InputError, UnreadableImageError
from picie.runtime import distributed
from picie.runtime.profiling import stage

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")
_AHEAD = 3  # batches, the one at hand included
_READ_AT_ONCE = 16  # frames that one thread reads: a GPU's batch of 256 comes from all of them


def default_workers() -> int:
    """Decoding threads: one less than the cores that this process may use, at most 16, at least 1.

    Processes of one run on one machine share its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // distributed.local_world_size() - 1))


class FrameCache:
    """The frames of a dataset, by index: the centre part of each image, all of one size.

    Threads do the decoding: Pillow gives up the interpreter lock while it decodes and resizes, frames need no copying
    between processes, and a fork beside a CUDA context or an OpenMP pool has no safe way to go. On each machine the processes
    of a run share one frame file, for which each decodes a part of the images.

    Args:
        dataset: the images.
        size: (H, W) of a frame in pixels.
        folder: where the frame file lives.
        cache_gb: its largest size; a dataset that needs more, or more than half of the free disk, is decoded in every pass.
        workers: decoding threads; None: by the cores.
        pin: give batches in page-locked memory, for a GPU.

    Attributes:
        bad: after `scan`, what is wrong with each image that cannot be read, by index.
        digest: after `scan`, a hash of the names and pixels of the others.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        folder: Path,
        cache_gb: float = 8.0,
        workers: int | None = None,
        pin: bool = False,
    ) -> None:
        self.dataset, self.size, self._pin = dataset, size, pin
        self._pool = ThreadPoolExecutor(default_workers() if workers is None else max(1, workers), "picie-decode")
        self._bytes = 3 * size[0] * size[1]
        needed = self._bytes * len(dataset)
        machines = (
            distributed.world_size() // distributed.local_world_size()
        )  # each with a file of its own in the folder that they share
        fits = all(distributed.all_gather_object(needed <= min(cache_gb * 1e9, shutil.disk_usage(folder).free / 2 / machines)))
        if cache_gb and not fits:
            limit = "run.cache_gb or half of the free disk: images are decoded in every pass"
            log.info("frames need %s, more than %s", decimal(needed), limit)
        self._file = _nameless_file(folder) if fits else None
        self._filled = False
        self.bad: dict[int, str] = {}
        self.digest = ""

    def scan(self, on_bad_image: str, advance: Callable[[int], None]) -> np.ndarray:
        """Decode every image once, fill the frame file, and find what cannot be read.

        Args:
            on_bad_image: "skip" to warn and go on, "error" to stop at the first.
            advance: called with the number of images just done.

        Returns:
            (N,) int64, indices of the images that can be read.

        Raises:
            InputError: an unreadable image and "error", or no image that can be read.
        """
        total = hashlib.sha256()
        own = self._fill_all(on_bad_image, advance)
        for index, result in enumerate(own if distributed.world_size() == 1 else _of_machine(list(own))):
            if isinstance(result, UnreadableImageError):
                self.bad[index] = str(result)
            else:
                total.update(self.dataset.name(index).encode("utf-8", "surrogateescape") + result)
        self.digest = total.hexdigest()
        if len(set(distributed.all_gather_object(self.digest))) > 1:
            raise InputError("the machines of this run have different images; give all of them the same")
        self._filled = self._file is not None
        good = np.array([i for i in range(len(self.dataset)) if i not in self.bad], dtype=np.int64)
        if not len(good):
            raise InputError(f"none of the {len(self.dataset)} image files can be read; the first: {self.bad[0]}")
        for problem in self.bad.values():  # only now, so that a folder without a good image is one line, not hundreds
            log.warning("skipped: %s", problem)
        return good

    def _fill_all(self, on_bad_image: str, advance: Callable[[int], None]) -> Iterator[bytes | UnreadableImageError]:
        """What `_fill` gives for each of this process's part of its machine's images."""
        n, ranks = len(self.dataset), distributed.local_ranks()
        share = range(distributed.local_rank() * n // len(ranks), (distributed.local_rank() + 1) * n // len(ranks))
        for result in _ahead(self._pool, self._fill, share):
            if isinstance(result, UnreadableImageError) and on_bad_image == "error":
                raise InputError(f"{result}, or set data.on_bad_image=skip")
            yield result
            advance(1)

    def _fill(self, index: int) -> bytes | UnreadableImageError:
        """Decode an image into the frame file, if there is one; the digest of its pixels, or what is wrong with it."""
        try:
            frame = self._decode(index).tobytes()
        except UnreadableImageError as error:
            return error
        if self._file is not None and os.pwrite(self._file.fileno(), frame, index * self._bytes) < len(frame):
            raise InputError("the disk of the run's folder is full; free some, or set run.cache_gb=0")
        return hashlib.sha256(frame).digest()

    def batches(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (indices, frames (B, 3, H, W) uint8) for each array of indices, reading ahead of the consumer."""
        coming = iter(batches)
        waiting = deque(self._begin(indices) for indices in itertools.islice(coming, _AHEAD))
        try:
            while waiting:
                indices, frames, jobs = waiting[0]
                with stage("read"):
                    for job in jobs:
                        job.result()
                waiting.popleft()
                yield indices, frames
                waiting.extend(self._begin(following) for following in itertools.islice(coming, 1))
        finally:
            for _, _, jobs in waiting:
                for job in jobs:
                    job.cancel()

    def _begin(self, indices: np.ndarray) -> tuple[np.ndarray, Tensor, list[Future[None]]]:
        """A batch whose frames threads are filling in, each a few of them."""
        frames = torch.empty(len(indices), 3, *self.size, dtype=torch.uint8, pin_memory=self._pin)
        rows, n = frames.numpy(), _READ_AT_ONCE if self._filled else 1
        fill = self._read if self._filled else self._decode_into
        jobs = [self._pool.submit(fill, rows[i : i + n], indices[i : i + n]) for i in range(0, len(indices), n)]
        return indices, frames, jobs

    def _decode(self, index: int) -> np.ndarray:
        return centre_frame(self.dataset.image(index), self.size)

    def _decode_into(self, rows: np.ndarray, indices: np.ndarray) -> None:
        for row, index in zip(rows, indices.tolist(), strict=True):
            row[:] = self._decode(index)

    def _read(self, rows: np.ndarray, indices: np.ndarray) -> None:
        assert self._file is not None
        for row, index in zip(rows, indices.tolist(), strict=True):
            os.preadv(self._file.fileno(), [row], index * self._bytes)

    def close(self) -> None:
        """Give back the threads and the frame file."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._file is not None:
            self._file.close()


def _nameless_file(folder: Path) -> BinaryIO:
    """A new file in `folder` without a name, which ends with the processes of this machine that share it."""
    if distributed.world_size() == 1:
        return tempfile.TemporaryFile(dir=folder)
    path, first = folder / f".frames{distributed.local_ranks().start}", distributed.local_rank() == 0
    if first:
        path.write_bytes(b"")
    distributed.barrier()
    file = path.open("r+b")
    distributed.barrier()
    if first:
        path.unlink()
    return file


def _of_machine(results: list[T]) -> Iterator[T]:
    """The `results` of this machine's processes, one after the other."""
    everywhere = distributed.all_gather_object(results)
    for rank in distributed.local_ranks():
        yield from everywhere[rank]


def readable(dataset: Dataset, order: Sequence[int] | np.ndarray, ahead: int = 4) -> Iterator[tuple[int, Image.Image]]:
    """Yield (index, image) of those images that can be read, in `order`, decoded ahead of the consumer."""

    def read(index: int) -> Image.Image | None:
        try:
            return dataset.image(index)
        except UnreadableImageError:
            return None

    indices = [int(index) for index in order]
    for index, image in zip(indices, read_ahead(read, indices, ahead=ahead), strict=True):
        if image is not None:
            yield index, image


def read_ahead(function: Callable[[S], T], items: Sequence[S], workers: int | None = None, ahead: int = 32) -> Iterator[T]:
    """Results of `function` in the order of `items`, computed in threads ahead of the consumer."""
    with ThreadPoolExecutor(default_workers() if workers is None else max(1, workers), "picie-read") as pool:
        yield from _ahead(pool, function, items, ahead)


def _ahead(pool: ThreadPoolExecutor, function: Callable[[S], T], items: Sequence[S], ahead: int = 32) -> Iterator[T]:
    """As `read_ahead`, in the threads of `pool`, at most `ahead` results computed before they are asked for."""
    waiting = deque(pool.submit(function, item) for item in items[:ahead])
    try:
        for position in range(len(items)):
            if position + ahead < len(items):
                waiting.append(pool.submit(function, items[position + ahead]))
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def split_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """`order` cut into consecutive batches; the last may be smaller, but one single image left over joins the batch before
    it: BatchNorm's statistics of one image are poor, and at one cell not defined.
    """
    starts = list(range(0, len(order), batch_size))
    if batch_size > 1 and len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return np.split(order, starts[1:]) if len(order) else []
