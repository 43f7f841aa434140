"""`python -m disttrain`: the command line, also what launchers start as ranks."""

import sys

from disttrain.cli import main

sys.exit(main())
