"""What the tests of `disttrain tune` share: looking at a search, and at the processes that belong to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from disttrain.tune.history import History, history_of
from disttrain.tune.journal import read_journal

from .slurm_jobs import MODULE

LIMIT_S = 400.0
CONFIG = """
model: {name: "rings:network"}
data: {name: "rings:points", loader_workers: 0, val_fraction: 0.2}
batch: {global_batch_size: 32}
train: {epochs: 3}
"""
OFTEN_SAVED = CONFIG + "checkpoint: {every_steps: 2}\ncomm: {timeout_s: 15}\n"

TWO_POINTS = """
space: {optim.lr: {grid: [0.01, 0.02]}}
searcher: grid
scheduler: none
"""


def write_search(folder: Path, search: str, config: str = CONFIG) -> None:
    """Files of a small search: `config.yaml`, `search.yaml`, and the module that they name (see slurm_jobs.py)."""
    for name, text in (("rings.py", MODULE), ("config.yaml", config), ("search.yaml", search)):
        (folder / name).write_text(text)


def history(folder: Path) -> History:
    """What the journal of the search in `out` says so far."""
    return history_of(read_journal(folder / "out/journal.jsonl"))


def reported(folder: Path, trial: int, epoch: int) -> bool:
    """Whether a trial has come as far."""
    found = history(folder).trials.get(trial)
    return found is not None and found.epoch >= epoch


def until(condition: Callable[[], object], what: str, process: subprocess.Popen[str]) -> None:
    """Poll a condition while a driver runs; its processes are killed where it does not come to that."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline or process.poll() is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{what}: it did not come to that (exit code {process.poll()}). {process.communicate()}")
        time.sleep(0.05)


def processes_of(folder: Path) -> dict[int, str]:
    """Command lines of the processes in whose command or environment the folder is named, Ray's own included."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                texts = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if str(folder).encode() in texts and (line := (entry / "cmdline").read_bytes()):
                    found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def check_nothing_left(folder: Path) -> None:
    """A moment after its end a driver has taken with it all that it started."""
    deadline = time.monotonic() + 60
    while left := processes_of(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
