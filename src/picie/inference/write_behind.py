"""Work that threads do behind the network: encoding, writing and uploading predictions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_BYTES = 2**27  # of memory that the work of each thread may hold: 128 MB


@dataclass
class _Waiting(Generic[T]):
    future: Future[T]
    take: Callable[[T], None]
    cost: int


class WriteBehind(Generic[T]):
    """Runs work in threads; its results are taken in order by the thread that submits.

    Args:
        workers: the number of threads. At most twice as many pieces of work wait, and those in
            memory take at most 128 MB a thread, unless a single one takes more.
    """

    def __init__(self, workers: int) -> None:
        self._pool, self._workers = ThreadPoolExecutor(workers, "picie-write"), workers
        self._waiting: deque[_Waiting[T]] = deque()

    def __enter__(self) -> WriteBehind[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.finish()
        except BaseException:
            if error is None:
                raise
        finally:
            self._pool.shutdown()

    def submit(self, work: Callable[[], T], take: Callable[[T], None], cost: int) -> None:
        """Run `work`, and later call `take` with its result.

        Args:
            work: called in a thread.
            take: called in this thread, by this method or by `finish`.
            cost: the bytes of memory that the work holds.

        Raises:
            BaseException: the error of an earlier piece of work.
        """
        while self._waiting and (
            len(self._waiting) >= 2 * self._workers
            or sum(one.cost for one in self._waiting) + cost > _BYTES * self._workers
            or self._waiting[0].future.done()
        ):
            self._take_first()
        self._waiting.append(_Waiting(self._pool.submit(work), take, cost))

    def finish(self) -> None:
        """Wait for all work. Raises the first error."""
        while self._waiting:
            self._take_first()

    def _take_first(self) -> None:
        first = self._waiting.popleft()
        first.take(first.future.result())
