"""`disttrain evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from disttrain.commands.start import start
from disttrain.launch.env import RankEnv

if TYPE_CHECKING:
    from disttrain.comm.control_plane import ControlPlane
    from disttrain.comm.rank_logging import RankLogging


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain evaluate`; returns the exit code."""

    def work(checked: None, env: RankEnv, control_plane: ControlPlane, logging: RankLogging) -> None:
        from disttrain.inference.evaluate_model import evaluate_model_dir

        result = evaluate_model_dir(
            Path(arguments.model),
            arguments.data,
            arguments.split,
            arguments.device,
            arguments.allow_code,
            env,
            control_plane,
        )
        if env.is_rank_zero:
            sys.stdout.write(json.dumps(result) + "\n")

    return start(arguments, argv, lambda world_size: None, work)
