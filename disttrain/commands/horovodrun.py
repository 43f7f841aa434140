"""What `launchers/horovodrun.sh` calls.

A module of its own: the child processes that Horovod makes import it again as their main module.
"""

from __future__ import annotations

import contextlib
import sys

from disttrain.commands.start import check_train
from disttrain.errors import exit_code_of
from disttrain.launch.mpi import horovodrun

_NOTICE_S = 30  # Horovod's 5 s between SIGTERM and SIGKILL are too few for a checkpoint

# At import, because Horovod's own child processes import this module again, and it is they who wait.
with contextlib.suppress(ImportError):
    from horovod.runner.common.util import safe_shell_exec

    safe_shell_exec.GRACEFUL_TERMINATION_TIME_S = _NOTICE_S


def main() -> int:
    """The command line."""
    return exit_code_of(lambda: horovodrun.start(sys.argv[1:], check_train))


if __name__ == "__main__":
    sys.exit(main())
