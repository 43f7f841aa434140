"""`disttrain evaluate`."""

from __future__ import annotations

import argparse
import sys

from disttrain.commands.start import join_or_start, validated_session
from disttrain.files import strict_json, user_path


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain evaluate`; returns the exit code."""

    def validate(world_size: int) -> None:
        """Nothing to refuse before the model is there."""

    rank = join_or_start(arguments, argv, validate)
    if isinstance(rank, int):
        return rank
    from disttrain.inference.evaluate_model import evaluate_model_dir

    with validated_session(rank, arguments, validate) as (session, _):
        result = evaluate_model_dir(
            user_path(arguments.model), arguments.data, arguments.split, arguments.device, arguments.allow_code,
            rank, session.control_plane,
        )  # fmt: skip
        if rank.is_rank_zero:
            sys.stdout.write(strict_json(result) + "\n")
    return 0
