"""What each command does: from parsed arguments to one rank's work, or to an agent that starts the ranks."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disttrain.config import load_config
from disttrain.errors import ConfigError
from disttrain.launch_env import NodeEnv, RankEnv, resolve

if TYPE_CHECKING:
    from disttrain.comm.board import Board
    from disttrain.logs import RankLogging

_CONNECT_TIMEOUT_S = 60.0


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Run the verb; returns the exit code. Raises DisttrainError for what is wrong before any rank starts."""
    if arguments.verb == "data":
        return _data(arguments)
    return {"train": _train, "evaluate": _evaluate, "predict": _predict}[arguments.verb](arguments, argv)


def _train(arguments: argparse.Namespace, argv: list[str]) -> int:
    if arguments.help_config or arguments.schema:
        from disttrain.config.reference import render_reference, render_schema

        sys.stdout.write(render_schema() if arguments.schema else render_reference())
        return 0
    if arguments.config is None:
        raise ConfigError("train needs a config file: disttrain train CONFIG. configs/ holds some to begin with.")

    def body(env: RankEnv, board: Board, logging: RankLogging) -> None:
        from disttrain.prepare import Request
        from disttrain.run import run_training
        from disttrain.rundir import MODEL, default_run_dir

        config = board.together("config", lambda: load_config(arguments.config, arguments.overrides))
        run_dir = Path(arguments.run_dir) if arguments.run_dir else default_run_dir(Path(arguments.config))
        request = Request(config, run_dir, arguments.resume, arguments.quiet)
        result = run_training(request, env, board, logging)
        if env.is_rank_zero:
            sys.stdout.write(json.dumps(result) + "\n" if arguments.json else _summary(result, run_dir / MODEL))

    def check() -> None:
        load_config(arguments.config, arguments.overrides)

    return _start(arguments, argv, check, body)


def _summary(result: dict[str, Any], model_dir: Path) -> str:
    test = result["test"]
    speed = f"{result['samples_per_second']:,.0f} samples/s"
    lines = [f"trained {result['step']} steps in {result['wall_s']:.1f} s ({speed})"]
    if test:
        accuracy = "" if test["accuracy"] is None else f"accuracy {test['accuracy']:.2%}, "
        lines.append(f"test: {accuracy}loss {test['loss']:.4f} on {test['count']:,} samples")
    return "\n".join([*lines, f"model: {model_dir}", ""])


def _evaluate(arguments: argparse.Namespace, argv: list[str]) -> int:
    def body(env: RankEnv, board: Board, logging: RankLogging) -> None:
        from disttrain.evaluation_run import evaluate_model_dir

        result = evaluate_model_dir(
            Path(arguments.model), arguments.data, arguments.split, arguments.device, arguments.allow_code, env, board
        )
        if env.is_rank_zero:
            sys.stdout.write(json.dumps(result) + "\n")

    return _start(arguments, argv, lambda: None, body)


def _predict(arguments: argparse.Namespace, argv: list[str]) -> int:
    from disttrain.predict import check_output

    def body(env: RankEnv, board: Board, logging: RankLogging) -> None:
        from disttrain.predict import predict_files

        model_dir, inputs, output = Path(arguments.model), arguments.inputs, arguments.output
        predict_files(model_dir, inputs, output, arguments.device, arguments.allow_code, env, board)

    return _start(arguments, argv, lambda: check_output(arguments.output), body)


def _start(
    arguments: argparse.Namespace,
    argv: list[str],
    check: Callable[[], None],
    body: Callable[[RankEnv, Board, RankLogging], None],
) -> int:
    """Join as the rank that a launcher has made of this process, or start ranks here, or be the only one.

    `check` finds mistakes before processes are started for nothing.
    """
    env = resolve(os.environ)
    if isinstance(env, NodeEnv):
        from disttrain.launch import start_node

        check()
        return start_node(env, argv)
    workers = _worker_count(arguments.workers, env)
    if workers > 1 and (env is None or env.world_size == 1):
        from disttrain.launch import start_workers

        check()
        return start_workers(workers, argv)
    from disttrain.worker import run_rank

    rank_env = env or RankEnv.alone()
    return run_rank(
        rank_env, _CONNECT_TIMEOUT_S, arguments.quiet, lambda board, logging: body(rank_env, board, logging)
    )


def _worker_count(wanted: str | None, env: RankEnv | None) -> int:
    """`--workers` as a number; under a launcher it may only repeat what was started."""
    if wanted is not None and wanted != "auto" and not (wanted.isdigit() and int(wanted) > 0):
        raise ConfigError(f"--workers {wanted}: give a number of at least 1, or auto (one per GPU, else 1).")
    if env is not None and env.world_size > 1:
        if wanted not in (None, "auto", str(env.local_world_size)):
            raise ConfigError(
                f"--workers {wanted}, but {env.launcher} has started {env.local_world_size} ranks on this node. Leave "
                "--workers out under a launcher."
            )
        return env.local_world_size
    if wanted is not None and wanted != "auto":
        return int(wanted)
    from disttrain.launch import default_worker_count

    return default_worker_count()


def _data(arguments: argparse.Namespace) -> int:
    from disttrain.data.tools import describe_dataset, make_synthetic

    if arguments.data_verb == "make":
        make_synthetic(Path(arguments.output), arguments.count, arguments.seed)
        return 0
    summary = describe_dataset(load_config(arguments.config, arguments.overrides).data)
    sys.stdout.write(json.dumps(summary, indent=None if arguments.json else 1) + "\n")
    return 0
