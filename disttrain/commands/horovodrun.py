"""What `launchers/horovodrun.sh` calls.

A module of its own: the child processes that Horovod makes import it again as their main module.
"""

from __future__ import annotations

from disttrain.system.import_path import leave_working_directory

if __name__ == "__main__":
    leave_working_directory()

import sys

from disttrain.commands.start import check_train
from disttrain.errors import exit_code_of
from disttrain.launch.mpi import horovodrun
from disttrain.system.streams import secure_streams

# At import, because Horovod's own child processes import this module again, and it is they who wait.
horovodrun.apply_grace_period()


def main() -> int:
    """The command line."""
    secure_streams()
    return exit_code_of(lambda: horovodrun.start(sys.argv[1:], check_train))


if __name__ == "__main__":
    sys.exit(main())
