"""One run of a trial as the search's worker sees it: started, followed by its `metrics.jsonl`, ended. Without Ray."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from disttrain.errors import ConfigError
from disttrain.launch.agent.forked_rank import ForkedRank, ForkServer
from disttrain.launch.exit_codes import job_exit_code
from disttrain.launch.slurm.requeue import newest_step
from disttrain.run_dir import CHECKPOINTS, CONFIG, METRICS, RESULT
from disttrain.system.import_path import RUN_MODULE
from disttrain.system.owner import OWNER, check_not_owned
from disttrain.system.processes import adopting_orphans, kill_family, parent_death_signal

# What launchers, Slurm and Ray leave in the environment: the ranks of a trial belong to no launcher around the search.
_FOREIGN = ("RAY_", "TUNE_", "TORCHELASTIC_", "PET_", "SLURM_", "PMI", "OMPI_", "HOROVOD_", "MASTER_",
            "DISTTRAIN_AGENT", "DISTTRAIN_ROUND", "DISTTRAIN_JOB")  # fmt: skip
_RANK_NUMBERS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "PYTHONBREAKPOINT"}

_RESTARTS = 2  # of ranks that were lost, from the last checkpoint, within one start of the training
_OWNED_S = 20.0  # what a killed process holds is free within moments; one that is frozen keeps it
_POLL_S = 0.05
_REASON_LENGTH = 500

LOG = "train.log"


class Line(NamedTuple):
    """An evaluation of the validation split."""

    epoch: int
    value: float
    """NaN where the figure is not finite, or there is none."""
    step: int = 0


def validation_lines(run_dir: Path, metric: str, after_epoch: int) -> list[Line]:
    """The evaluations in `metrics.jsonl` after an epoch; a line that is just being written is left out."""
    try:
        data = (run_dir / METRICS).read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for text in data[: data.rfind(b"\n") + 1].splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if line.get("split") == "val" and line["epoch"] > after_epoch:
                value = line.get(metric)
                found.append(Line(line["epoch"], math.nan if value is None else float(value), line["step"]))
    return found


def clean_environ(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a training: nothing in it of a launcher, and as many threads a rank as its config says."""
    kept = {
        name: value for name, value in environ.items() if not name.startswith(_FOREIGN) and name not in _RANK_NUMBERS
    }
    return {**kept, "OMP_NUM_THREADS": str(threads)}


class TrainingHost:
    """Starts trainings from a process that has imported everything once, and ends with this process.

    To be used from one thread only: the kernel ends what a thread has started with that thread.
    """

    def __init__(self, preload: Sequence[str], threads: int) -> None:
        self.environ = clean_environ(os.environ, threads)
        self._server = ForkServer(preload, self.environ)

    def start(self, run_dir: Path, command: Sequence[str], **variables: str) -> Training:
        """Run what `train_command` has made for a run in `run_dir`, with some variables of its own."""
        self._server.start()  # again, where it was lost
        self._server.wait_ready()
        environ = {**self.environ, **variables}
        words = [sys.executable, "-u", RUN_MODULE, "--with-server", *command]
        with adopting_orphans() as adopts:
            forked = self._server.fork(words, environ) if adopts else None
        return Training(run_dir, forked or self._start_anew(command, environ), Path(command[1]))

    def _start_anew(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Where nothing can be forked (another system than Linux), or the import fails: the training then says why."""
        ask = parent_death_signal(signal.SIGKILL)
        words = [sys.executable, "-u", RUN_MODULE, *command]
        return subprocess.Popen(words, env=environ, preexec_fn=ask, start_new_session=True)

    def close(self) -> None:
        """End it; trainings that run do not notice."""
        self._server.close()


class Training:
    """A training that has been started, by its agent's process."""

    def __init__(self, run_dir: Path, process: ForkedRank | subprocess.Popen[bytes], log: Path) -> None:
        self.run_dir, self._process, self._log = run_dir, process, log
        self._log_begins = log.stat().st_size if log.exists() else 0

    def poll(self) -> int | None:
        """disttrain's exit code; None while it runs."""
        code = self._process.poll()
        return None if code is None else job_exit_code(code)

    def ask_to_stop(self) -> None:
        """It saves a checkpoint and leaves, within its `checkpoint.notice_s`."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once with all its processes, and wait for that."""
        if self._process.poll() is None:
            kill_family(self._process.pid)
            self._process.wait()

    def why(self) -> str:
        """What it has said of its failure: our own message, or the last line."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._log_begins)
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        at = text.find("disttrain: error: ")
        said = text[at + len("disttrain: error: ") :] if at >= 0 else (text.strip().splitlines() or [""])[-1]
        return " ".join(said.split())[:_REASON_LENGTH]


class Part(NamedTuple):
    """One node of a training on several of them."""

    node: int
    nodes: int
    ranks: int
    """On each node."""
    endpoint: str
    """Where the nodes meet, at node 0."""
    job: str
    """A name that no other start of a training has."""
    address: str
    """Of this node."""


def train_command(run_dir: Path, begin_from: str = "", part: Part | None = None) -> list[str]:
    """What a training of `run_dir/config.yaml` runs on this machine: all of its ranks, or one node's part of them.

    `begin_from`: a checkpoint with which it begins, where it has none of its own.
    """
    train = [str(run_dir / CONFIG), "--run-dir", str(run_dir), "--max-restarts", str(_RESTARTS), "--quiet"]
    if begin_from and newest_step(run_dir) is None:
        train += ["--resume", begin_from]
    if part is None:
        return ["disttrain.commands.trial", str(run_dir / LOG), "disttrain", "train", *train]
    meeting = ["--nnodes", str(part.nodes), "--nproc-per-node", str(part.ranks), "--rdzv-backend", "c10d"]
    meeting += ["--rdzv-endpoint", part.endpoint, "--rdzv-id", part.job, "--local-addr", part.address]
    meeting += ["--rdzv-conf", f"is_host={int(part.node == 0)}"]  # torch would guess it from names that resolve
    log = LOG if part.node == 0 else f"train.node-{part.node}.log"
    return ["disttrain.commands.trial", str(run_dir / log), "disttrain.commands.torchrun", *meeting, *train]


def keep_checkpoint(run_dir: Path, step: int, copy: Path, patience_s: float) -> bool:
    """Keep the checkpoint of a step as `copy`, once it is written; whether it was, in time. A copy takes no room: it
    is made of links to files that nobody changes, and outlives their removal by the run."""
    source = run_dir / CHECKPOINTS / f"step_{step:08d}"
    deadline = time.monotonic() + patience_s
    while not source.is_dir():  # it has its name once it is whole
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    if copy.exists():
        return True
    copy.parent.mkdir(parents=True, exist_ok=True)
    beside = copy.with_name(f".{copy.name}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(source, beside, copy_function=os.link)
        beside.rename(copy)
    except OSError:  # the run has just removed it, or the file system has no links
        return False
    return True


def vacant_run_dir(run_dir: Path, patience_s: float = _OWNED_S) -> Path:
    """The run directory or, where somebody still has it (a node that froze, and may thaw), a new one beside it that
    goes on from its checkpoints: no two trainings ever write into one."""
    deadline = time.monotonic() + patience_s
    while _is_owned(run_dir):
        if time.monotonic() > deadline:
            return _copy_beside(run_dir)
        time.sleep(_POLL_S)
    return run_dir


def _is_owned(run_dir: Path) -> bool:
    try:
        check_not_owned(run_dir)
    except ConfigError:
        return True
    return False


def _copy_beside(run_dir: Path) -> Path:
    name = run_dir.name.partition(".")[0]
    beside = next(path for n in range(2, 10_000) if not (path := run_dir.with_name(f"{name}.{n}")).exists())
    beside.mkdir()
    for path in sorted(run_dir.iterdir()):
        if path.name == CHECKPOINTS:  # whole files that nobody changes: as links they take no room
            shutil.copytree(path, beside / path.name, copy_function=os.link, symlinks=True)
        elif path.name not in (OWNER, RESULT, LOG) and path.is_file():
            shutil.copy2(path, beside / path.name)
    return beside
