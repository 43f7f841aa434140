"""What a search starts for each of its trainings: `LOG MODULE ARGUMENTS` runs a module with its output in LOG."""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    """The command line. Ends the process."""
    log, module, *arguments = sys.argv[1:]
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        file = os.open(name, flags, 0o666)
        os.dup2(file, number)
        os.close(file)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
