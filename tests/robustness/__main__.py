"""Try many mutated inputs: `python -m tests.robustness [INPUTS] [FIRST]`, or `make fuzz`.

INPUTS (2,016 by default) are spread evenly over the kinds. FIRST (0 by default) is the number of the first
mutation of each kind; other numbers give other inputs. Ends with status 1 if an input ended badly.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import torch
from tests.robustness.harness import try_inputs
from tests.robustness.kinds import KINDS, make_fixture

_MEMORY = 24 * 2**30  # bytes of address space: what asks for more fails in this process, not on the machine


def main(inputs: int = 2016, first: int = 0) -> int:
    """Try the inputs, print counts and failures, and return the exit status."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    each = -(-inputs // len(KINDS))
    with tempfile.TemporaryDirectory(prefix="picie-fuzz-") as folder:
        fixture = make_fixture(Path(folder))
        report = None
        for kind in KINDS:
            latest = try_inputs(fixture, {kind: range(first, first + each)})
            print(latest.table(), *latest.failures, sep="\n", flush=True)
            report = latest if report is None else report + latest
    assert report is not None
    print(f"{report.inputs} inputs, {len(report.failures)} failures")
    return min(1, len(report.failures))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
