"""What each command does: from parsed arguments to one rank's work, or to an agent that starts the ranks."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from disttrain.batch import check_world_size
from disttrain.config import Config, load_config
from disttrain.errors import ConfigError
from disttrain.launch_env import NodeEnv, RankEnv, resolve
from disttrain.rundir import MODEL, check_run_dir, default_run_dir

if TYPE_CHECKING:
    from disttrain.comm.board import Board
    from disttrain.logs import RankLogging

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 60.0
_OUTPUT_FORMATS = (".csv", ".jsonl")


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

    run_dir = Path(arguments.run_dir) if arguments.run_dir else default_run_dir(Path(arguments.config))

    def body(config: Config, env: RankEnv, board: Board, logging: RankLogging) -> None:
        from disttrain.prepare import Request
        from disttrain.run import run_training

        request = Request(
            config, run_dir, arguments.resume, arguments.quiet, accept_changes=arguments.accept_changed_config
        )
        result = run_training(request, env, board, logging)
        if env.is_rank_zero:
            sys.stdout.write(json.dumps(result) + "\n" if arguments.json else _summary(result, run_dir / MODEL))

    def check(world_size: int) -> Config:
        config = load_config(arguments.config, arguments.overrides)
        check_world_size(config.batch.global_batch_size, world_size)
        check_run_dir(run_dir, config, arguments.resume, arguments.accept_changed_config)
        return config

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
    def body(checked: None, env: RankEnv, board: Board, logging: RankLogging) -> None:
        from disttrain.evaluation_run import evaluate_model_dir

        result = evaluate_model_dir(
            Path(arguments.model), arguments.data, arguments.split, arguments.device, arguments.allow_code, env, board
        )
        if env.is_rank_zero:
            sys.stdout.write(json.dumps(result) + "\n")

    return _start(arguments, argv, lambda world_size: None, body)


def _predict(arguments: argparse.Namespace, argv: list[str]) -> int:
    def body(checked: None, env: RankEnv, board: Board, logging: RankLogging) -> None:
        from disttrain.predict import predict_files

        model_dir, inputs, output = Path(arguments.model), arguments.inputs, arguments.output
        predict_files(model_dir, inputs, output, arguments.device, arguments.allow_code, env, board)

    return _start(arguments, argv, lambda world_size: _check_output(arguments.output), body)


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


def _start(
    arguments: argparse.Namespace,
    argv: list[str],
    check: Callable[[int], T],
    body: Callable[[T, RankEnv, Board, RankLogging], None],
) -> int:
    """Join as the rank that a launcher has made of this process, or start ranks here, or be the only one.

    `check` finds mistakes before processes are started for nothing, and before torch is imported: given the number of
    ranks, as far as it is known, it returns what `body` works with.
    """
    env = resolve(os.environ)
    restarts: int | None = getattr(arguments, "max_restarts", None)
    if isinstance(env, NodeEnv):
        from disttrain.launch import start_node

        notice_s = _notice_s(check(1))
        if restarts is not None:
            env = dataclasses.replace(env, max_restarts=restarts)
        return start_node(env, argv, notice_s)
    rank_env = env or RankEnv.alone()
    if rank_env.world_size == 1:
        wanted = _wanted_workers(arguments.workers)
        checked = check(wanted or 1)
        from disttrain.launch import default_worker_count, start_workers

        workers = wanted or (default_worker_count() if env is None else 1)
        if workers > 1 or (restarts and env is None):
            return start_workers(workers, argv, restarts or 0, _notice_s(checked))
    from disttrain.worker import run_rank

    def check_rank() -> T:
        _check_launched(arguments.workers, restarts, rank_env)
        return check(rank_env.world_size)

    def rank_body(board: Board, logging: RankLogging) -> None:
        body(board.together("arguments", check_rank), rank_env, board, logging)

    return run_rank(rank_env, _CONNECT_TIMEOUT_S, arguments.quiet, rank_body)


def _wanted_workers(text: str | None) -> int | None:
    """`--workers` as a number, None for `auto`."""
    if text is None or text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigError(f"--workers {text}: give a number of at least 1, or auto (one per GPU, else 1).")
    return int(text)


def _notice_s(checked: object) -> float:
    """Seconds that ranks have from being asked to stop."""
    from disttrain.launch import NOTICE_S

    return checked.checkpoint.notice_s if isinstance(checked, Config) else NOTICE_S


def _check_launched(wanted: str | None, restarts: int | None, env: RankEnv) -> None:
    """Under a launcher `--workers` may only repeat what was started, and only our agent starts ranks again."""
    if restarts and env.launcher not in ("torchrun", "none"):
        raise ConfigError(
            f"--max-restarts {restarts}, but {env.launcher} has started this rank and starts none again. Leave it out "
            "and run the same command again instead, or use launchers/torchrun.sh."
        )
    if env.world_size > 1 and _wanted_workers(wanted) not in (None, env.local_world_size):
        raise ConfigError(
            f"--workers {wanted}, but {env.launcher} has started {env.local_world_size} ranks on this node. Leave "
            "--workers out under a launcher."
        )


def _data(arguments: argparse.Namespace) -> int:
    from disttrain.data.tools import describe_dataset, make_synthetic

    if arguments.data_verb == "make":
        make_synthetic(Path(arguments.output), arguments.count, arguments.seed)
        return 0
    summary = describe_dataset(load_config(arguments.config, arguments.overrides).data)
    sys.stdout.write(json.dumps(summary, indent=None if arguments.json else 1) + "\n")
    return 0
