"""`disttrain export`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from disttrain.errors import ConfigError, say
from disttrain.files import expand_home, user_path


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain export`; returns the exit code."""
    output = None if arguments.output is None else Path(expand_home(arguments.output))
    if output is not None and output.is_dir():
        raise ConfigError(f"--output {output} is a folder: name the file to write.")
    if output is not None and not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {output.absolute().parent} does not exist.")
    from disttrain.inference.export import DRAWN, export_model

    exported = export_model(user_path(arguments.model), output, arguments.format, arguments.allow_code)
    if exported.checked_on == DRAWN and not arguments.quiet:
        say(f"{arguments.model} has no golden requests: the exported model was compared on {DRAWN}")
    if arguments.json:
        json.dump(exported.as_json(), sys.stdout)
        sys.stdout.write("\n")
    else:
        shape = ", ".join(map(str, exported.input["shape"]))
        sys.stdout.write(
            f"{exported.output}: {exported.input['dtype']} [{shape}] -> {exported.result['name']}; differs from the "
            f"original on {exported.checked_on} by {exported.largest_difference:.2g} at most ("
            f"{exported.tolerance:g} is allowed)\n"
        )
    return 0
