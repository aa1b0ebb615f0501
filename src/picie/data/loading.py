"""Load a dataset in batches of frames: decoded once, cached on disk, read ahead in threads.

Every pass of every epoch starts from the same frame of an image; only the random transforms
differ. So each image is decoded and resized once, at the start of a run, and its frame is cached
in an unnamed temporary file in the run's folder. Memory does not grow with the dataset, and the
operating system deletes the file when the process ends, even if it is killed.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from picie.data.base import Dataset
from picie.data.frame_reading import read_frame
from picie.data.remarks import Remarks
from picie.data.sizes import decimal
from picie.errors import InputError, UnreadableImageError, none_can
from picie.runtime import distributed
from picie.runtime.profiling import stage
from picie.runtime.system_calls import RecordFile, available_cores, open_deleted_on_close, unlink_open

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")
_AHEAD = 3  # batches in flight, including the current one
_AHEAD_BYTES = 2**29  # memory budget for the results of `read_ahead`
_READ_CHUNK = 16  # frames per read job, so that all threads share a GPU's batch of 256


def default_workers() -> int:
    """Number of decoding threads: available cores minus one, at least 1 and at most 16.

    The processes of a run on one machine share its cores.
    """
    return max(1, min(16, available_cores() // distributed.local_world_size() - 1))


class _Filled(NamedTuple):
    """An image in the cache file: the hash of its frame, and remarks on it."""

    digest: bytes
    remarks: tuple[str, ...]


class FrameCache:
    """Frames of a dataset by index: the centre part of each image, all of one size.

    Decoding uses threads: Pillow releases the interpreter lock while it decodes and resizes,
    frames are not copied between processes, and forking is unsafe after CUDA or OpenMP has
    started. The processes of a run on one machine share one cache file, and each decodes a part of
    the images.

    Args:
        dataset: the images.
        size: (H, W) of a frame in pixels.
        folder: folder of the cache file.
        cache_gb: maximum size of the cache file in GB. If the frames need more, or more than half
            of the free disk space, they are decoded in every pass.
        workers: number of decoding threads; None: `default_workers`.
        pin: return batches in page-locked memory, for a GPU.

    Attributes:
        unreadable: after `scan`, the error of each unreadable image, by index.
        digest: after `scan`, a hash of the names and pixels of all other images.
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
        # each machine has a cache file in the shared folder
        machines = distributed.world_size() // distributed.local_world_size()
        fits = all(distributed.all_gather_object(needed <= min(cache_gb * 1e9, shutil.disk_usage(folder).free / 2 / machines)))
        if cache_gb and not fits:
            limit = "run.cache_gb or half of the free disk space: images are decoded in every pass"
            log.info("frames need %s, more than %s", decimal(needed), limit)
        self._file = _cache_file(folder, self._bytes) if fits else None
        self._filled = False
        self.unreadable: dict[int, str] = {}
        self.digest = ""

    def scan(self, on_bad_image: str, advance: Callable[[int], None]) -> np.ndarray:
        """Decode every image once, fill the cache file, and find unreadable images.

        Args:
            on_bad_image: "skip" to warn and continue, "error" to stop at the first unreadable
                image.
            advance: called with the number of images just decoded.

        Returns:
            (N,) int64, indices of the readable images.

        Raises:
            InputError: an image is unreadable and `on_bad_image` is "error", or none is readable.
        """
        digest, remarks = hashlib.sha256(), Remarks()
        results = self._fill_all(on_bad_image, advance)
        for index, result in enumerate(results if distributed.world_size() == 1 else _of_machine(list(results))):
            if isinstance(result, UnreadableImageError):
                self.unreadable[index] = str(result)
            else:
                digest.update(self.dataset.name(index).encode("utf-8", "surrogateescape") + result.digest)
                remarks.add(self.dataset.name(index), result.remarks)
        self.digest = digest.hexdigest()
        if len(set(distributed.all_gather_object(self.digest))) > 1:
            raise InputError("the machines of this run have different images; use the same images on all of them")
        self._filled = self._file is not None
        good = np.array([i for i in range(len(self.dataset)) if i not in self.unreadable], dtype=np.int64)
        if not len(good):
            raise InputError(none_can(len(self.dataset), "image", "be read", self.unreadable[0]))
        # warn after the check above, so that a folder without readable images gives one line
        for problem in self.unreadable.values():
            log.warning("skipped: %s", problem)
        for line in remarks.lines():
            log.warning("%s", line)
        return good

    def _fill_all(self, on_bad_image: str, advance: Callable[[int], None]) -> Iterator[_Filled | UnreadableImageError]:
        """Call `_fill` for this process's share of the images, and yield the results."""
        n, ranks = len(self.dataset), distributed.local_ranks()
        share = range(distributed.local_rank() * n // len(ranks), (distributed.local_rank() + 1) * n // len(ranks))
        for result in _ahead(self._pool, self._fill, share):
            if isinstance(result, UnreadableImageError) and on_bad_image == "error":
                raise InputError(f"{result}, or set data.on_bad_image=skip")
            yield result
            advance(1)

    def _fill(self, index: int) -> _Filled | UnreadableImageError:
        """Decode an image into the cache file, if there is one."""
        try:
            pixels, remarks = read_frame(self.dataset, index, self.size)
        except UnreadableImageError as error:
            return error
        frame = pixels.tobytes()
        if self._file is not None:
            self._file.write(index, frame)
        return _Filled(hashlib.sha256(frame).digest(), remarks)

    def batches(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (indices, frames (B, 3, H, W) uint8) for each array of indices, read ahead."""
        remaining = iter(batches)
        waiting = deque(self._begin(indices) for indices in itertools.islice(remaining, _AHEAD))
        try:
            while waiting:
                indices, frames, jobs = waiting[0]
                with stage("read"):
                    for job in jobs:
                        job.result()
                waiting.popleft()
                yield indices, frames
                waiting.extend(self._begin(following) for following in itertools.islice(remaining, 1))
        finally:
            for _, _, jobs in waiting:
                for job in jobs:
                    job.cancel()

    def _begin(self, indices: np.ndarray) -> tuple[np.ndarray, Tensor, list[Future[None]]]:
        """Start loading a batch. Returns its indices, its frames, and the jobs that fill them."""
        frames = torch.empty(len(indices), 3, *self.size, dtype=torch.uint8, pin_memory=self._pin)
        rows, n = frames.numpy(), _READ_CHUNK if self._filled else 1
        fill = self._read if self._filled else self._decode_into
        jobs = [self._pool.submit(fill, rows[i : i + n], indices[i : i + n]) for i in range(0, len(indices), n)]
        return indices, frames, jobs

    def _decode_into(self, rows: np.ndarray, indices: np.ndarray) -> None:
        for row, index in zip(rows, indices.tolist(), strict=True):
            row[:] = read_frame(self.dataset, index, self.size)[0]

    def _read(self, rows: np.ndarray, indices: np.ndarray) -> None:
        assert self._file is not None
        for row, index in zip(rows, indices.tolist(), strict=True):
            self._file.read(index, row)

    def close(self) -> None:
        """Stop the threads and delete the cache file."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._file is not None:
            self._file.close()


def _cache_file(folder: Path, size: int) -> RecordFile:
    """Create an unnamed file of records of `size` bytes in `folder`.

    The processes of this machine share it.
    """
    if distributed.world_size() == 1:
        return RecordFile.temporary(folder, size)
    path, first = folder / f".frames{distributed.local_ranks().start}", distributed.local_rank() == 0
    if first:
        path.write_bytes(b"")
    distributed.barrier()
    file = open_deleted_on_close(path)
    distributed.barrier()
    if first:
        unlink_open(path)
    return RecordFile(file, size)


def _of_machine(results: list[T]) -> Iterator[T]:
    """Yield the `results` of all processes of this machine, in order."""
    by_rank = distributed.all_gather_object(results)
    for rank in distributed.local_ranks():
        yield from by_rank[rank]


def readable(dataset: Dataset, order: Sequence[int] | np.ndarray, ahead: int = 4) -> Iterator[tuple[int, Image.Image]]:
    """Yield (index, image) of the readable images in `order`, decoded ahead of the consumer."""

    def read(index: int) -> Image.Image | None:
        try:
            return dataset.image(index)
        except UnreadableImageError:
            return None

    indices = [int(index) for index in order]
    for index, image in zip(indices, read_ahead(read, indices, ahead=ahead), strict=True):
        if image is not None:
            yield index, image


def read_ahead(
    function: Callable[[S], T],
    items: Iterable[S],
    workers: int | None = None,
    ahead: int = 32,
    cost: Callable[[S], int] | None = None,
    limit: int | None = None,
) -> Generator[T, None, None]:
    """Yield `function(item)` for each item, in order, computed in threads in advance.

    Args:
        function: computes a result.
        items: the arguments.
        workers: number of threads; None chooses by the cores.
        ahead: maximum number of results in advance.
        cost: the bytes that computing and holding an item's result takes. All results, with the one
            that the caller is using, take at most `limit`, unless a single one takes more.
        limit: None is 512 MB.
    """
    with ThreadPoolExecutor(default_workers() if workers is None else max(1, workers), "picie-read") as pool:
        yield from _ahead(pool, function, items, ahead, cost, limit)


def _ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[S], T],
    items: Iterable[S],
    ahead: int = 32,
    cost: Callable[[S], int] | None = None,
    limit: int | None = None,
) -> Iterator[T]:
    """As `read_ahead`, in the threads of `pool`."""
    waiting: deque[Future[T]] = deque()
    costs: deque[int] = deque()  # of the result in use by the caller, and of the waiting results
    limit = _AHEAD_BYTES if limit is None else limit
    remaining, following = iter(items), deque[S]()  # `following` is an item for which there was no room
    try:
        while True:
            while len(waiting) <= ahead:
                following.extend(itertools.islice(remaining, 1 - len(following)))
                needed = cost(following[0]) if following and cost is not None else 0
                if not following or (costs and sum(costs) + needed > limit):
                    break
                waiting.append(pool.submit(function, following.popleft()))
                costs.append(needed)
            if not waiting:
                return
            yield waiting.popleft().result()
            costs.popleft()
    finally:
        for future in waiting:
            future.cancel()


def split_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split `order` into consecutive batches.

    The last batch may be smaller, but a single remaining image joins the batch before it:
    BatchNorm statistics of one image are poor, and with one feature cell undefined.
    """
    starts = list(range(0, len(order), batch_size))
    if batch_size > 1 and len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return np.split(order, starts[1:]) if len(order) else []
