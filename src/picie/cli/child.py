"""`python -m picie.cli.child ARGUMENTS`: the command line, in a process that stops with its parent.

The parent holds the other end of this process's stdin. If the parent is killed, the system closes
it, and the command stops as it does on SIGTERM.
"""

import sys

from picie.cli.main import main
from picie.runtime.interrupts import stop_with_parent

if __name__ == "__main__":
    stop_with_parent()
    sys.exit(main())
