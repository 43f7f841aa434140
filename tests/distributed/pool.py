"""Ranks that wait for work: a process group costs seconds to start, a training in these tests less than one.

The processes stay; what makes them a job (store, process group, log handlers) is made anew for each one.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

HERE = Path(__file__).parent
Weights = dict[str, torch.Tensor]
Measured = Callable[[str, object], None]
"""Notes a number of this test: shown by `pytest -rA`, kept in `--junitxml`."""


def relative_difference(one: Weights, other: Weights) -> float:
    """The largest ||a - b|| / ||b|| over the tensors."""
    assert one.keys() == other.keys()
    return max(
        float((one[name].double() - other[name].double()).norm() / other[name].double().norm().clamp_min(1e-30))
        for name in other
        if other[name].is_floating_point()
    )


def identical(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


class Run:
    """A training that has ended: what each rank saw of it, and what lies on disk."""

    def __init__(self, folder: Path, ranks: list[dict[str, Any]]) -> None:
        self.folder, self.ranks, self.world_size = folder, ranks, len(ranks)

    @property
    def result(self) -> dict[str, Any]:
        return self.ranks[0]["result"]

    def initial(self, rank: int = 0) -> Weights:
        """Before the network was handed to DistributedDataParallel."""
        return load_file(self.folder / f"initial_{rank}.safetensors")

    def final(self, rank: int = 0) -> Weights:
        return load_file(self.folder / f"final_{rank}.safetensors")

    def after_step(self, step: int, rank: int = 0) -> Weights:
        return load_file(self.folder / f"step_{step}_{rank}.safetensors")

    @cached_property
    def exported(self) -> Weights:
        return load_file(self.folder / "run" / "model" / "model.safetensors")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        lines = (self.folder / "run" / "metrics.jsonl").read_text().splitlines()
        return [one for one in map(json.loads, lines) if one["split"] == "train"]

    def global_batches(self) -> list[tuple[int, list[int]]]:
        """Per step its epoch, and the ids that all ranks together took with weight 1."""
        steps = []
        for parts in zip(*(rank["steps"] for rank in self.ranks), strict=True):
            epochs = {part["epoch"] for part in parts}
            assert len(epochs) == 1
            ids = [one for part in parts for micro in part["micro"] if micro["weight"] == 1 for one in micro["ids"]]
            assert {part["count"] for part in parts} == {len(ids)}
            steps.append((epochs.pop(), ids))
        return steps


class RankPool:
    """Processes 0 to 3, of which a job on k ranks takes the first k."""

    def __init__(self, folder: Path, size: int = 4, timeout_s: float = 240.0) -> None:
        self.folder, self.size, self.timeout_s = folder, size, timeout_s
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._runs: dict[str, Run] = {}
        self._processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "inductor")
        self.log = self.folder / f"ranks_{uuid.uuid4().hex[:6]}.log"
        with self.log.open("w") as log:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, str(HERE / "rank_jobs.py"), str(rank)],
                    env=environ,
                    cwd=self.folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
                for rank in range(self.size)
            ]

    def close(self, force: bool = False) -> None:
        for process in self._processes:
            if force:  # SIGABRT: faulthandler writes into the log where the rank stands
                process.send_signal(signal.SIGABRT)
            _pipe(process.stdin).close()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            _pipe(process.stdout).close()
        self._processes = []

    def call(self, job: str, world_size: int, **arguments: Any) -> list[Any]:
        """What the job returned on each rank. Fails the test where it raised, or took too long."""
        if not self._processes:
            self.start()
        request = {"job": job, "world_size": world_size, "port": self._store.port, "run_id": uuid.uuid4().hex}
        chosen = self._processes[:world_size]
        for process in chosen:
            _pipe(process.stdin).write(json.dumps({**request, "arguments": arguments}) + "\n")
            _pipe(process.stdin).flush()
        replies = self._receive(chosen)
        errors = [f"rank {rank}:\n{reply['error']}" for rank, reply in enumerate(replies) if "error" in reply]
        if errors:
            pytest.fail("\n".join(errors), pytrace=False)
        return [reply["value"] for reply in replies]

    def _receive(self, processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self.timeout_s
        replies: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for rank, process in enumerate(processes):
                selector.register(_pipe(process.stdout), selectors.EVENT_READ, rank)
            while len(replies) < len(processes):
                ready = selector.select(deadline - time.monotonic())
                lines = [(key, key.fileobj.readline()) for key, _ in ready]  # type: ignore[union-attr]
                if not lines or not all(line for _, line in lines):
                    missing = sorted(set(range(len(processes))) - set(replies))
                    self.close(force=True)
                    what = "has ended" if lines else f"gave no answer within {self.timeout_s:g} s"
                    text = self.log.read_text(errors="replace")[-8000:]
                    pytest.fail(f"one of the ranks {missing} {what}. Its log:\n{text}", pytrace=False)
                for key, line in lines:
                    replies[key.data] = json.loads(line)
                    selector.unregister(key.fileobj)
        return [replies[rank] for rank in range(len(processes))]

    def folder_for_job(self) -> Path:
        folder = self.folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        return folder

    def train(self, world_size: int, loss: str | None = None, every_step: bool = False, **sections: Any) -> Run:
        """`run_training` with these config sections on so many ranks; the same request is trained once."""
        request = {"sections": sections, "loss": loss, "every_step": every_step}
        key = json.dumps([world_size, request], sort_keys=True)
        if key not in self._runs:
            folder = self.folder_for_job()
            self._runs[key] = Run(folder, self.call("train", world_size, folder=str(folder), **request))
        return self._runs[key]


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
