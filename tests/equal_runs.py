"""What it means that two runs are the same."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from tests.conftest import checkpoint_of

from picie.runtime.run_record import read_metrics

_MACHINE = ("seconds", "peak_memory_mb")  # what a line of metrics.jsonl says of the machine


def assert_equal_runs(run: Path, expected: Path, but: Collection[str] = ()) -> None:
    """Two runs' checkpoints are equal to the bit, and so are their metrics but for times and memory.

    The section [run] of the configuration may differ, and so may the entries of the checkpoint named in `but`.
    """
    ours, theirs = checkpoint_of(run), checkpoint_of(expected)
    for state in (ours, theirs):
        state["config"].pop("run")
        for name in but:
            del state[name]
    assert_same(ours, theirs, "checkpoint")
    lines = [[{k: v for k, v in line.items() if k not in _MACHINE} for line in read_metrics(r)] for r in (run, expected)]
    assert lines[0] == lines[1]


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Nested containers hold the same, tensors to the bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), f"{where} differs by up to {(ours.double() - theirs.double()).abs().max():.2g}"
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    else:
        assert ours == theirs, where
