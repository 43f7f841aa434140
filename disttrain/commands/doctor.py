"""`disttrain doctor`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from disttrain.config import Config, load_config
from disttrain.data.shards import check_ranks
from disttrain.doctor.examine import Examination, chosen_checks, examine
from disttrain.doctor.facts.gather import Request
from disttrain.doctor.finding import unfit_nodes
from disttrain.doctor.report import as_json, message, render, warning
from disttrain.errors import ConfigError, DisttrainError, say, say_error
from disttrain.files import strict_json, user_path
from disttrain.launch.env import NodeEnv, RankEnv, resolve
from disttrain.launch.env.launchers import seems_another_rank
from disttrain.run_dir import default_run_dir


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain doctor`; returns 1 where anything failed. Under a launcher rank zero reports for all ranks."""
    error: str | None = None
    env: RankEnv | NodeEnv | None = None
    try:
        env = resolve(os.environ)
    except ConfigError as contradiction:
        error = str(contradiction)
    if isinstance(env, NodeEnv):
        from disttrain.launch.local import start_node

        return start_node(dataclasses.replace(env, max_restarts=0), argv, notice_s=30.0)
    if error is not None and seems_another_rank(os.environ):
        return 1  # rank zero finds the same, and says so
    env = env or RankEnv.alone()
    try:
        result = examine(_request(arguments), env, error)
    except DisttrainError as lost:
        say_error(str(lost))
        return 1
    return result if isinstance(result, int) else _report(arguments, result, env)


def _request(arguments: argparse.Namespace) -> Request:
    path: str | None = arguments.config

    def load(world_size: int) -> Config:
        config = load_config(str(path), arguments.overrides)
        check_ranks(config.batch, world_size)
        return config

    run_dir: Path | None = None
    if arguments.run_dir is not None:
        run_dir = user_path(arguments.run_dir)
    elif path is not None:
        run_dir = default_run_dir(user_path(path))
    return Request(
        path, load if path is not None else None, run_dir, arguments.job, arguments.wait, arguments.ranks_per_node
    )


def _report(arguments: argparse.Namespace, examination: Examination, env: RankEnv) -> int:
    findings, nodes = examination.findings, examination.nodes
    unfit = unfit_nodes(chosen_checks(Request(job=arguments.job)), findings, nodes)
    if arguments.job:
        for one in findings:
            if one.status == "warn":
                say(f"warning: {warning(one, len(nodes))}")
        if examination.exit_code:
            say_error(message(findings, nodes))
    if arguments.json:
        sys.stdout.write(strict_json(as_json(findings, nodes, unfit, env.world_size)) + "\n")
    elif not arguments.job:
        sys.stdout.write(render(findings, with_ok=not arguments.quiet))
    return examination.exit_code
