"""`disttrain train`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from disttrain.commands.start import join_or_start, validated_session
from disttrain.config import Config, load_config
from disttrain.data.shards import check_ranks
from disttrain.errors import ConfigError
from disttrain.files import expand_home, strict_json, user_path
from disttrain.run_dir import DIGESTS, MODEL, check_run_dir, default_run_dir


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain train`; returns the exit code. Raises DisttrainError for what is wrong before any rank starts."""
    if arguments.help_config or arguments.schema:
        from disttrain.config.reference import render_reference, render_schema

        sys.stdout.write(render_schema() if arguments.schema else render_reference())
        return 0
    if arguments.config is None:
        raise ConfigError("train needs a config file: disttrain train CONFIG. configs/ holds some to begin with.")

    run_dir = (
        user_path(arguments.run_dir) if arguments.run_dir is not None else default_run_dir(user_path(arguments.config))
    )
    resume = arguments.resume if arguments.resume in ("auto", "never") else expand_home(arguments.resume)
    other = user_path(arguments.verify_against) if arguments.verify_against is not None else None

    def validate(world_size: int) -> Config:
        config = load_config(arguments.config, arguments.overrides)
        check_ranks(config.batch, world_size)
        check_run_dir(run_dir, config, resume, arguments.accept_changed_config)
        if other is not None:
            _check_recorded(other, run_dir)
        return config

    rank = join_or_start(arguments, argv, validate)
    if isinstance(rank, int):
        return rank
    from disttrain.training.prepare import Request
    from disttrain.training.run import run_training

    with validated_session(rank, arguments, validate) as (session, config):
        accept_changes = arguments.accept_changed_config
        request = Request(config, run_dir, resume, arguments.quiet, accept_changes=accept_changes, verify_against=other)
        result = run_training(request, session)
        if rank.is_rank_zero:
            sys.stdout.write(
                strict_json(result) + "\n" if arguments.json else _summary(result, config, run_dir / MODEL)
            )
    return 0


def _check_recorded(other: Path, run_dir: Path) -> None:
    """Raise ConfigError where there is nothing to verify against."""
    if other.resolve() == run_dir.resolve():
        raise ConfigError(f"--verify-against {other} is the run directory itself. Use another --run-dir.")
    if not (other / DIGESTS).is_file():
        raise ConfigError(
            f"--verify-against {other}: it has no {DIGESTS}. Train that run with train.record_digests=true first."
        )


def _summary(result: dict[str, Any], config: Config, model_dir: Path) -> str:
    test = result["test"]
    speed = f"{result['samples_per_second']:,.0f} samples/s"
    if (scaling := result.get("scaling_efficiency")) is not None:
        alone = result["one_worker_samples_per_second"]
        speed += f", {scaling:.0%} of {result['world_size']} times the {alone:,.0f} of one worker"
    lines = [f"trained {result['step']} steps in {result['wall_s']:.1f} s ({speed})"]
    if test:
        accuracy = "" if test["accuracy"] is None else f"accuracy {test['accuracy']:.2%}, "
        lines.append(f"test: {accuracy}loss {_figure(test['loss'])} on {test['count']:,} samples")
    lines.append(f"everything is in {model_dir.parent}: result.json, metrics.jsonl, checkpoints/, logs/")
    lines.append(f"look at it: disttrain report {shlex.quote(str(model_dir.parent))}")
    if ":" not in config.data.name:  # else the inputs may be no images
        lines.append(f"use it: disttrain predict {shlex.quote(str(model_dir))} IMAGES")
    return "\n".join([*lines, f"model: {model_dir}", ""])


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
