"""`python -m picie`."""

import sys

from picie.cli.main import main

sys.exit(main())
