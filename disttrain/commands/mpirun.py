"""What `launchers/mpirun.sh` calls."""

from __future__ import annotations

from disttrain.system.import_path import leave_working_directory

if __name__ == "__main__":
    leave_working_directory()

import sys

from disttrain.commands.start import check_train
from disttrain.errors import exit_code_of
from disttrain.launch.mpi import mpirun
from disttrain.system.streams import secure_streams


def main() -> int:
    """The command line."""
    secure_streams()
    return exit_code_of(lambda: mpirun.start(sys.argv[1:], check_train))


if __name__ == "__main__":
    sys.exit(main())
