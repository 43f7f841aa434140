"""`python -m disttrain`, and the installed `disttrain`: the command line, also what launchers start as ranks."""

from __future__ import annotations

from disttrain.system.import_path import leave_working_directory

if __name__ == "__main__":
    leave_working_directory()

import logging
import os
import sys

from disttrain.commands.main import main
from disttrain.system.processes import raise_file_limit
from disttrain.system.streams import secure_streams


def run() -> None:
    """Run the command and end the process with its exit code.

    Everything is written and closed by then. The interpreter is not taken down piece by piece, since the threads of
    torch's communication libraries at times abort a finished rank there ("terminate called without an active
    exception").
    """
    secure_streams()
    raise_file_limit()
    try:
        code = main()
    except SystemExit as end:  # argparse: a usage error, or --help
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    if (hvd := sys.modules.get("horovod.torch")) and hvd.is_initialized():
        hvd.shutdown()  # as it would at exit: mpirun takes a rank that has not left MPI for one that was killed
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
