"""Telemetry of a run: every rank samples its machine, rank zero writes what all of them say into `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import json
import math
import queue
import socket
import time
from typing import Any, cast

import torch
from torch.distributed import DistError, Store

from disttrain.comm.base import Comm, gather
from disttrain.launch.env import RankEnv
from disttrain.telemetry.machine import GpuProbe, HostProbe, Probe, Sample, Sampler
from disttrain.telemetry.phases import PhaseTimer

_MOST_RANKS = 64
"""More of them are not written down: the file would grow by gigabytes a day."""

TELEMETRY = "telemetry"
"""The `split` of its lines."""


class MachineWatch:
    """Made on every rank. Other ranks put their last sample on the store; rank zero takes it from there."""

    def __init__(self, env: RankEnv, store: Store, phases: PhaseTimer, device: torch.device, every_s: float) -> None:
        """`store`: the connection whose calls are all short. `every_s`: seconds between samples, 0 for none."""
        self._env, self._store, self._phases = env, store, phases
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._told: dict[int, float] = {}
        self._is_known = False
        self._host = socket.gethostname()
        uuid = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
        self._gpu = GpuProbe(uuid) if uuid is not None and every_s else None
        self._energy_before = self._gpu.energy_j() if self._gpu else None
        self._sampler: Sampler | None = None
        if every_s and env.rank < _MOST_RANKS:
            probes: list[Probe] = [HostProbe(env.local_rank == 0), *([self._gpu] if self._gpu else [])]
            self._sampler = Sampler(probes, every_s, self._take)

    def _take(self, sample: Sample) -> None:
        """In the sampler's thread."""
        own = {
            "time": round(time.time(), 3), "step": self._phases.current.step, "split": TELEMETRY,
            "rank": self._env.rank, "host": self._host, **sample,
        }  # fmt: skip
        if self._env.is_rank_zero:
            self._lines.put(own)
            for line in self._others():
                self._lines.put(line)
            return
        with contextlib.suppress(DistError):
            self._store.set(f"telemetry/{self._env.rank}", json.dumps(own))
            if not self._is_known:
                cast(Any, self._store).append("telemetry/came", f"{self._env.rank},")
                self._is_known = True

    def _others(self) -> list[dict[str, Any]]:
        """The samples of other ranks that have come since the last time."""
        if self._env.world_size == 1:
            return []
        try:
            if not self._store.check(["telemetry/came"]):
                return []
            ranks = [int(one) for one in self._store.get("telemetry/came").decode().split(",") if one]
            texts = cast(Any, self._store).multi_get([f"telemetry/{rank}" for rank in ranks])
        except DistError:
            return []
        lines = [json.loads(text) for text in texts]
        new = [line for line in lines if self._told.get(line["rank"]) != line["time"]]
        self._told |= {line["rank"]: line["time"] for line in new}
        return new

    def pop_lines(self) -> list[dict[str, Any]]:
        """The lines for `metrics.jsonl` that have come since the last call; on rank zero alone there are any."""
        lines = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(self._lines.get_nowait())
        return lines

    def energy_j(self, comm: Comm) -> float | None:
        """What the GPUs of all ranks have used since the start, in joules; None where one does not tell. To be called
        on every rank."""
        now = self._gpu.energy_j() if self._gpu else None
        own = math.nan if now is None or self._energy_before is None else now - self._energy_before
        total = float(gather(comm, [own]).sum())
        return total if math.isfinite(total) else None

    def close(self) -> None:
        """End the sampling."""
        if self._sampler is not None:
            self._sampler.close()
        if self._gpu is not None:
            self._gpu.close()
