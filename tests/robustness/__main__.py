"""Damages many inputs of every kind: python -m tests.robustness [--cases N] [--kind KIND] [--seed SEED]."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from tests.robustness.harness import run_case
from tests.robustness.inputs import KINDS, prepare


def main() -> int:
    """Run the cases, print the findings and the counts; the exit status is 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=160, help="cases of each kind")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    parser.add_argument("--seed", type=int, help="only this case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="picie-fuzz-source-") as folder:
        source = prepare(Path(folder))
        for kind, make in KINDS.items():
            if arguments.kind not in {None, kind}:
                continue
            began, commands = time.monotonic(), 0
            seeds = range(arguments.cases) if arguments.seed is None else [arguments.seed]
            for seed in seeds:
                n, findings = run_case(kind, make, seed, source)
                commands, found[kind] = commands + n, found[kind] + len(findings)
                for finding in findings:
                    print(f"{finding}\n", flush=True)
            seconds = time.monotonic() - began
            print(f"== {kind}: {len(seeds)} inputs, {commands} commands, {found[kind]} findings, {seconds:.0f} s", flush=True)
    return 1 if found.total() else 0


if __name__ == "__main__":
    sys.exit(main())
