"""From the command line to the command."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from disttrain.commands.parser import parse
from disttrain.errors import ENDS, exit_code_after
from disttrain.system.streams import check_results_written


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(argv)
    # A connection that is tried in vain makes torch print a C++ stack; what matters of it is in our own message.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    try:
        command = importlib.import_module(f"disttrain.commands.{arguments.command}")
        code: int = command.run(arguments, argv)
        if arguments.command != "train":  # what it prints is in result.json too
            check_results_written()
        return code
    except ENDS as end:
        return exit_code_after(end)
