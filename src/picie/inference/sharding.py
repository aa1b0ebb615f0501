"""Shards: the parts of a prediction that several processes make, each on its own."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from picie.errors import InputError

S = TypeVar("S")
# (rank, number of processes, rank on the machine): those of torchrun, then those of Slurm's srun
_LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Shard:
    """One of several parts of the files.

    Attributes:
        index: its number, from 1.
        count: the number of parts.
        local: the number of the process on its machine, from 0, if a launcher started it.
    """

    index: int
    count: int
    local: int | None = None

    def part(self, files: Iterable[S]) -> list[S]:
        """Return the files of this shard: of all in sorted order, every `count`-th.

        >>> [Shard(i, 2).part("cab") for i in (1, 2)]
        [['a', 'c'], ['b']]
        """
        return sorted(files, key=str)[self.index - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard that "I/N" or "env" names.

    "env" reads the variables of torchrun (RANK, WORLD_SIZE) or else of Slurm's srun (SLURM_PROCID,
    SLURM_NTASKS); the process of rank 0 gets the first shard.

    Raises:
        InputError: the text is neither, the numbers are not possible, or no launcher set them.
    """
    if text == "env":
        return _from_environment(environment)
    parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if parts is None or not 1 <= int(parts[1]) <= int(parts[2]):
        raise InputError(
            f"--shard {text}: give I/N with I from 1 to N, e.g. 1/4 to 4/4, or env for the numbers that torchrun or srun set"
        )
    return Shard(int(parts[1]), int(parts[2]))


def _from_environment(environment: Mapping[str, str]) -> Shard:
    for names in _LAUNCHERS:
        rank, count, local = (environment.get(name) for name in names)
        if not (rank and count):
            continue
        found = f"{names[0]}={rank}, {names[1]}={count}"
        if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
            raise InputError(f"--shard env: {found} are not a rank and a number of processes; give --shard I/N")
        return Shard(int(rank) + 1, int(count), int(local) if local and local.isdecimal() else 0)
    raise InputError(
        "--shard env: neither RANK and WORLD_SIZE nor SLURM_PROCID and SLURM_NTASKS are set; start it with torchrun or srun, "
        "or give --shard I/N"
    )


def fingerprint_of(files: Iterable[object]) -> str:
    """Return a fingerprint of the paths of all files, which is equal in all shards."""
    text = "\0".join(sorted(map(str, files)))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
