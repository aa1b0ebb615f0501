"""`python -m picie`."""

import sys

from picie.cli import main

sys.exit(main())
