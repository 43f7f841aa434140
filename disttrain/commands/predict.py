"""`disttrain predict`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from disttrain.commands.start import start
from disttrain.errors import ConfigError
from disttrain.launch.env import RankEnv

if TYPE_CHECKING:
    from disttrain.comm.control_plane import ControlPlane
    from disttrain.comm.rank_logging import RankLogging

_OUTPUT_FORMATS = (".csv", ".jsonl")


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain predict`; returns the exit code."""

    def work(checked: None, env: RankEnv, control_plane: ControlPlane, logging: RankLogging) -> None:
        from disttrain.inference.predict_files import predict_files

        model_dir, inputs, output = Path(arguments.model), arguments.inputs, arguments.output
        predict_files(model_dir, inputs, output, arguments.device, arguments.allow_code, env, control_plane)

    return start(arguments, argv, lambda world_size: _check_output(arguments.output), work)


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
