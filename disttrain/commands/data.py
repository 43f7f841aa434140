"""`disttrain data info|make`."""

from __future__ import annotations

import argparse
import sys

from disttrain.config import load_config
from disttrain.files import strict_json, user_path


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain data info|make`; returns the exit code."""
    from disttrain.data.tools import describe_dataset, make_synthetic

    if arguments.data_command == "make":
        make_synthetic(user_path(arguments.output), arguments.count, arguments.seed)
        return 0
    summary = describe_dataset(load_config(arguments.config, arguments.overrides).data)
    sys.stdout.write(strict_json(summary, indent=None if arguments.json else 1) + "\n")
    return 0
