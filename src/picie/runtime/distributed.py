"""One run in several processes, started by torchrun (docs/guides/gpu.md).

Outside `process_group`, and with one process, each function returns the result of a single
process: a sum is its only summand, there is no waiting, and torch.distributed is not used. All
processes must call the same functions in the same order. Tensors on a GPU use NCCL, everything
else gloo. `failures` passes errors of one process on to the others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from picie.errors import InputError
from picie.runtime import failures

if TYPE_CHECKING:  # importing them takes seconds, which `picie --help` should not wait for
    import numpy as np
    from torch import Tensor

T = TypeVar("T")
_joined = 0  # number of processes in the group; 0 outside `process_group`
_joins = 0  # how often this process has joined a group
_store: Any = None  # the store of the first group, reused because its port can be opened only once


def stand_alone() -> None:
    """Let this process work alone, although a launcher started several: it prints and joins nobody."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


def launched() -> int:
    """Return how many processes the launcher started for this run (WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK") or 0) if launched() > 1 else 0


def is_main() -> bool:
    """Return whether this is the main process, which writes files and prints messages."""
    return rank() == 0


def world_size() -> int:
    """Return the number of processes in the group; 1 outside `process_group`."""
    return _joined or 1


def local_rank() -> int:
    """Return the rank of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK") or rank()) if launched() > 1 else 0


def local_world_size() -> int:
    """Return the number of processes on this machine; 1 outside `process_group`."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or _joined) if _joined else 1


def local_ranks() -> range:
    """Return the ranks of the processes on this machine."""
    first = rank() - local_rank() if _joined else 0
    return range(first, first + local_world_size())


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes of a run within the block; an error in one of them is raised in all.

    Raises:
        InputError: There are several processes, and they cannot connect.
    """
    global _joined
    if launched() == 1:
        yield
        return
    with failures.shared_failures(_join(), rank()):
        _joined = launched()
        try:
            yield
        finally:
            _joined = 0


def _join() -> Any:
    """Connect to the other processes and return the store that they share."""
    global _store, _joins
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _joins += 1
    try:
        if _store is None:
            _store, *_ = next(rendezvous("env://"))
        # A new prefix for each group: the store still holds the addresses of the last one.
        store = dist.PrefixStore(f"picie/{_joins}", _store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank(), world_size=launched())
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the {launched()} processes of this run (WORLD_SIZE) cannot connect to each other ({reason}); "
            "start them with torchrun, or unset WORLD_SIZE for one"
        ) from error
    return store


def shard(items: np.ndarray) -> np.ndarray:
    """Return this process's consecutive share of `items`.

    Shares differ in length by at most one; a share may be empty.
    """
    if not _joined:
        return items
    import numpy as np

    share: np.ndarray = np.array_split(items, _joined)[rank()]
    return share


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over the processes, bit-identical in each of them.

    With several processes the result has no gradient.
    """
    if not _joined:
        return tensor
    import torch.distributed as dist

    on_mps = tensor.device.type == "mps"  # no backend supports it
    summed = (tensor.detach().cpu() if on_mps else tensor.detach().clone()).contiguous()
    with failures.communication():
        dist.all_reduce(summed)
    return summed.to(tensor.device)


def all_gather(tensor: Tensor) -> Tensor:
    """Return (P, ...) with the `tensor` of each of the P processes, in order of their ranks."""
    if not _joined:
        return tensor[None]
    import torch
    import torch.distributed as dist

    local = tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach()
    gathered = [torch.empty_like(local) for _ in range(_joined)]
    with failures.communication():
        dist.all_gather(gathered, local.contiguous())
    return torch.stack(gathered).to(tensor.device)


def all_gather_object(value: T) -> list[T]:
    """Return the `value` of each process, in order of their ranks.

    Any value that pickle supports is allowed, but tensors must be on the CPU.
    """
    if not _joined:
        return [value]
    import torch.distributed as dist

    gathered: list[Any] = [None] * _joined
    with failures.communication():
        dist.all_gather_object(gathered, value)
    return gathered


def gather_object(value: T) -> list[T]:
    """As `all_gather_object`, in the main process only; elsewhere the list is empty."""
    if not _joined:
        return [value]
    import torch.distributed as dist

    gathered: list[Any] = [None] * _joined if is_main() else []
    with failures.communication():
        dist.gather_object(value, gathered if is_main() else None)
    return gathered


def run_on_main(make: Callable[[], T]) -> T:
    """Call `make` in the main process only and return its result in all of them."""
    if not _joined:
        return make()
    import torch.distributed as dist

    content: list[Any] = [make() if is_main() else None]
    with failures.communication():
        dist.broadcast_object_list(content)
    value: T = content[0]
    return value


def all_reduce_max(value: int) -> int:
    """Return the largest `value` of all processes."""
    if not _joined:
        return value
    import torch

    return int(all_gather(torch.tensor(value)).max())


def barrier() -> None:
    """Wait until every process has called this."""
    all_reduce_max(0)


def broadcast(tensors: list[Tensor]) -> None:
    """Overwrite `tensors` with those of the main process."""
    if not _joined:
        return
    import torch.distributed as dist

    for tensor in tensors:
        content = tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach().contiguous()
        with failures.communication():
            dist.broadcast(content, 0)
        tensor.detach().copy_(content)
