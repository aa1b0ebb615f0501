"""The program `picie`, and `python -m picie`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line of the process and return its exit status.

    The modules of the command line take a third of a second to import. A signal in that time ends
    the process with one line; afterwards `run_app` handles signals. A launcher of several processes
    is left to handle them itself.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background jobs with SIGINT ignored.
        if "WORLD_SIZE" not in os.environ and signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _end)
    from picie.cli.main import main as run

    return run()


def _end(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"picie: stopped\n")
    os._exit(128 + signum)  # an exception would become another one where a compiled module is being imported


if __name__ == "__main__":
    sys.exit(main())
