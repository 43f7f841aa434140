"""`disttrain predict`."""

from __future__ import annotations

import argparse

from disttrain.commands.output import check_output_file
from disttrain.commands.start import join_or_start, validated_session
from disttrain.errors import ConfigError
from disttrain.files import expand_home, user_path

_OUTPUT_FORMATS = (".csv", ".jsonl")


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain predict`; returns the exit code."""

    inputs = list(map(expand_home, arguments.inputs))
    output = None if arguments.output is None else expand_home(arguments.output)

    def validate(world_size: int) -> None:
        check_output_file("--output", output, _OUTPUT_FORMATS, "predictions are", inputs, arguments.json)
        if arguments.resume and output is None:
            raise ConfigError("--resume goes on with a file that was begun: name it by --output.")

    rank = join_or_start(arguments, argv, validate)
    if isinstance(rank, int):
        return rank
    from disttrain.inference.predict_files import predict_files

    model_dir = user_path(arguments.model)
    with validated_session(rank, arguments, validate) as (session, _):
        predict_files(
            model_dir, inputs, output, arguments.device, arguments.allow_code, rank, session.control_plane,
            as_json=arguments.json, resume=arguments.resume, quiet=arguments.quiet,
        )  # fmt: skip
    return 0
