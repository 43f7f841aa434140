"""`disttrain tune`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from disttrain.commands.start import PRELOAD
from disttrain.config import Config, load_config
from disttrain.errors import ConfigError, DataError, DisttrainError, Preempted, say
from disttrain.files import strict_json, user_path
from disttrain.system.import_path import RUN_MODULE
from disttrain.tune.history import FAILED, FINISHED, STOPPED, History
from disttrain.tune.outputs import write_outputs
from disttrain.tune.ray_setup import check_installed, session_root
from disttrain.tune.search import Search, open_search
from disttrain.tune.search_file import load_search
from disttrain.tune.table import Display
from disttrain.tune.trial_config import BEST
from disttrain.tune.watchers import Interrupts, Watchers


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain tune`; returns the exit code. Raises DisttrainError for what is wrong before any trial starts."""
    config = load_config(arguments.config, arguments.overrides)
    settings = load_search(
        arguments.search,
        trials=arguments.trials,
        workers_per_trial=arguments.workers_per_trial,
        concurrency=arguments.concurrency,
    )
    output = user_path(arguments.output) if arguments.output is not None else _default_output(arguments)
    check_installed(settings.scheduler.name)
    if arguments.ray_address is None:
        session_root()  # before the data are decoded
    with open_search(output, config, settings, arguments.resume) as search:
        check_validation_split(search.base)
        search.start(argv)
        interrupts = Interrupts(search)
        display = Display(settings.metric, search.budget, arguments.quiet)
        from disttrain.tune.ray_search import Place, run_search

        try:
            place = Place(arguments.ray_address, PRELOAD, arguments.ray_nodes)
            run_search(search, place, Watchers(display, interrupts, lambda: write_outputs(search)))
        finally:
            display.close()
            search.clear_ending()
            write_outputs(search)
        return _conclude(search, interrupts, arguments)


def _default_output(arguments: argparse.Namespace) -> Path:
    return Path("runs") / f"{user_path(arguments.config).stem}-{user_path(arguments.search).stem}"


def check_validation_split(config: Config) -> None:
    """Open the data once, in a process of its own, which leaves the decoded images for all trials of this machine.

    Raises ConfigError where there is no validation split, DataError where the data cannot be read.
    """
    import json
    import tempfile

    from disttrain.config import render_yaml

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(render_yaml(config))
        file.flush()
        words = [sys.executable, "-u", RUN_MODULE, "disttrain", "data", "info", file.name, "--json", "--quiet"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("disttrain: error: ")[2]
        kind = ConfigError if done.returncode == ConfigError.exit_code else DataError
        raise kind(said or f"the data cannot be opened: exit code {done.returncode}")
    if not json.loads(done.stdout)["splits"]["val"]["count"]:
        raise ConfigError(
            f"data.val_fraction={config.data.val_fraction:g} leaves no validation split, by which trials are compared: "
            "a search never looks at the test split. Set data.val_fraction, to 0.1 say."
        )


def _conclude(search: Search, interrupts: Interrupts, arguments: argparse.Namespace) -> int:
    history, output = search.history, search.output
    if search.failure:
        raise DisttrainError(
            f"{search.failure}. Mend that; the same command with --resume goes on:\n  {_again(arguments)}"
        )
    if search.ending_reason and interrupts.number is None:
        say(f"the search has ended: {search.ending_reason}")
    if interrupts.number is not None:
        left = search.budget - sum(history.count(one) for one in (FINISHED, STOPPED, FAILED))
        say(
            f"{left} of {search.budget} trials are left. The same command with --resume goes on:\n  {_again(arguments)}"
        )
    result = summary(history, search)
    if arguments.json:
        sys.stdout.write(strict_json(result) + "\n")
    elif history.best is not None:
        sys.stdout.write(
            f"best: trial {history.best.name}, validation {search.settings.metric} {result['value']:.4f} "
            f"after epoch {history.best.epoch}\nits config: {output / BEST}\nreport: {output / 'report.html'}\n"
        )
    if interrupts.number is not None:
        import signal

        return 130 if interrupts.number == signal.SIGINT else Preempted.exit_code
    if history.best is None:
        failed = [one for one in history.trials.values() if one.state == FAILED]
        raise (
            _same_kind(failed[0].exit_code)(
                f"none of {len(history.trials)} trials has reported anything. The first: {failed[0].reason}"
            )
            if failed
            else ConfigError("no trial has been tried.")
        )
    return 0


def _same_kind(code: int | None) -> type[Exception]:
    from disttrain import errors

    kinds = {one.exit_code: one for one in vars(errors).values() if isinstance(one, type) and hasattr(one, "exit_code")}
    return kinds.get(code or 1, errors.DisttrainError)


def summary(history: History, search: Search) -> dict[str, Any]:
    """What the command prints as JSON."""
    best = history.best
    return {
        "output": str(search.output),
        "trials": {state: history.count(state) for state in (FINISHED, STOPPED, FAILED)},
        "epochs": history.epochs_spent,
        "best": best.number if best else None,
        "metric": search.settings.metric,
        "value": best.value if best else None,
        "values": best.values if best else None,
    }


def _again(arguments: argparse.Namespace) -> str:
    import shlex

    words = ["disttrain", *sys.argv[1:]]
    return shlex.join(words if arguments.resume else [*words, "--resume"])
