"""What `launchers/mpirun.sh` calls."""

from __future__ import annotations

import sys

from disttrain.commands.start import check_train
from disttrain.errors import exit_code_of
from disttrain.launch.mpi import mpirun


def main() -> int:
    """The command line."""
    return exit_code_of(lambda: mpirun.start(sys.argv[1:], check_train))


if __name__ == "__main__":
    sys.exit(main())
