"""`disttrain predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

from disttrain.commands.start import join_or_start, validated_session
from disttrain.errors import ConfigError
from disttrain.files import expand_home, user_path

_OUTPUT_FORMATS = (".csv", ".jsonl")


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain predict`; returns the exit code."""

    output = None if arguments.output is None else expand_home(arguments.output)

    def validate(world_size: int) -> None:
        _check_output(output)

    rank = join_or_start(arguments, argv, validate)
    if isinstance(rank, int):
        return rank
    from disttrain.inference.predict_files import predict_files

    model_dir, inputs = user_path(arguments.model), list(map(expand_home, arguments.inputs))
    with validated_session(rank, arguments, validate) as (session, _):
        predict_files(model_dir, inputs, output, arguments.device, arguments.allow_code, rank, session.control_plane)
    return 0


def _check_output(output: str | None) -> None:
    """Raise ConfigError for an output file of unknown form or in a folder that is not there."""
    if output is None:
        return
    path = Path(output)
    if path.suffix.lower() not in _OUTPUT_FORMATS:
        raise ConfigError(f"--output {output}: predictions are written as {' or '.join(_OUTPUT_FORMATS)}.")
    if path.is_dir():
        raise ConfigError(f"--output {output} is a folder: name the file to write.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {path.absolute().parent} does not exist.")
