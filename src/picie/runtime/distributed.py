"""One run in several processes, on one machine or on several, as torchrun starts them (docs/several-processes.md).

Outside `joined`, and with one process, every function here does what it says for one: a sum is its only summand, nothing is
waited for, and torch.distributed is not touched. All must call the same functions in the same order. Tensors on a GPU go by
NCCL, everything else by gloo. What goes wrong in one process, and how the others come to know, is in `mishaps`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from picie.errors import InputError
from picie.runtime import failures

if TYPE_CHECKING:  # they cost seconds, which `picie --help` need not wait for
    import numpy as np
    from torch import Tensor

T = TypeVar("T")
_joined = 0  # processes that work together now; 0 outside `joined`
_times = 0  # that this process has joined others
_store: Any = None  # where all can leave notes; of the first time, for a port can be listened to once


def launched() -> int:
    """How many processes the launcher started for this run, by WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK") or 0) if launched() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def world_size() -> int:
    """How many processes work together; 1 outside `joined`."""
    return _joined or 1


def local_rank() -> int:
    """Which of this machine's processes this is, from 0."""
    return int(os.environ.get("LOCAL_RANK") or rank()) if launched() > 1 else 0


def local_world_size() -> int:
    """How many processes work together on this machine; 1 outside `joined`."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or _joined) if _joined else 1


def local_ranks() -> range:
    """The ranks of this machine's processes."""
    first = rank() - local_rank() if _joined else 0
    return range(first, first + local_world_size())


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Inside, the processes of a run work together; an error that leaves one of them is known to all.

    Raises:
        InputError: there are several, and they cannot find each other.
    """
    global _joined
    if launched() == 1:
        yield
        return
    with failures.shared(_meet(), rank()):
        _joined = launched()
        try:
            yield
        finally:
            _joined = 0


def _meet() -> Any:
    """Wait for all processes to begin, and return where they leave notes."""
    global _store, _times
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _times += 1
    try:
        if _store is None:
            _store, *_ = next(rendezvous("env://"))
        # A prefix of its own for each time: addresses of the last time are still in the store.
        ours = dist.PrefixStore(f"picie/{_times}", _store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=ours, rank=rank(), world_size=launched())
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the {launched()} processes of this run (WORLD_SIZE) cannot find each other ({reason}); start them with torchrun, "
            "or unset WORLD_SIZE for one"
        ) from error
    return ours


def shard(items: np.ndarray) -> np.ndarray:
    """The share of `items` that is this process's: consecutive, as large as the others' or one less; may be empty."""
    if not _joined:
        return items
    import numpy as np

    share: np.ndarray = np.array_split(items, _joined)[rank()]
    return share


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over the processes, the same to the bit in each; without a gradient where there are several."""
    if not _joined:
        return tensor
    import torch.distributed as dist

    apart = tensor.device.type == "mps"  # which no backend takes
    summed = (tensor.detach().cpu() if apart else tensor.detach().clone()).contiguous()
    with failures.reaching():
        dist.all_reduce(summed)
    return summed.to(tensor.device)


def all_gather(tensor: Tensor) -> Tensor:
    """(P, ...) `tensor` of each of the P processes, in the order of their ranks."""
    if not _joined:
        return tensor[None]
    import torch
    import torch.distributed as dist

    own = tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach()
    found = [torch.empty_like(own) for _ in range(_joined)]
    with failures.reaching():
        dist.all_gather(found, own.contiguous())
    return torch.stack(found).to(tensor.device)


def all_gather_object(value: T) -> list[T]:
    """`value` of each process, in the order of their ranks; anything that pickle takes, but tensors on the CPU alone."""
    if not _joined:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * _joined
    with failures.reaching():
        dist.all_gather_object(found, value)
    return found


def gather_object(value: T) -> list[T]:
    """As `gathered`, in the main process alone; elsewhere the list is empty."""
    if not _joined:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * _joined if is_main() else []
    with failures.reaching():
        dist.gather_object(value, found if is_main() else None)
    return found


def run_on_main(make: Callable[[], T]) -> T:
    """What `make` gives in the main process, which alone calls it; as for `gathered`."""
    if not _joined:
        return make()
    import torch.distributed as dist

    held: list[Any] = [make() if is_main() else None]
    with failures.reaching():
        dist.broadcast_object_list(held)
    value: T = held[0]
    return value


def all_reduce_max(value: int) -> int:
    """The largest `value` of any process."""
    if not _joined:
        return value
    import torch

    return int(all_gather(torch.tensor(value)).max())


def barrier() -> None:
    """Wait until every process is here."""
    all_reduce_max(0)


def broadcast(tensors: list[Tensor]) -> None:
    """Overwrite `tensors` with those of the main process."""
    if not _joined:
        return
    import torch.distributed as dist

    for tensor in tensors:
        held = tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach().contiguous()
        with failures.reaching():
            dist.broadcast(held, 0)
        tensor.detach().copy_(held)
