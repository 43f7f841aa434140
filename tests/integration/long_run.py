"""The files of a long run with restarts, as eight ranks on GPUs would have left them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

RANKS = 8
_BEGAN = 1.7e9


def write_long_run(folder: Path, steps: int, restarts: int) -> Path:
    """A line for every step, each of which takes a second, telemetry every ten, and so many starts after the first."""
    (folder / "logs").mkdir(parents=True)
    first_steps = [steps * number // (restarts + 1) for number in range(restarts + 1)]
    start = {"world_size": RANKS, "launcher": "slurm", "host": "n0", "device": "cuda: NVIDIA H100"}
    start |= {"versions": {"torch": "2.9.0"}}
    starts = [{**start, "time": _BEGAN + step, "first_step": step} for step in first_steps]
    _write(folder / "manifest.json", {**starts[-1], "starts": starts})
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            lines = [_train_line(step)]
            if step % 10 == 0:
                lines += [_telemetry_line(step, rank) for rank in range(RANKS)]
            if step % 500 == 0:
                lines.append({**lines[0], "split": "val", "loss": 2.2 / math.sqrt(step)})
            file.writelines(json.dumps(line) + "\n" for line in lines)
    (folder / "config.yaml").write_text("optim: {lr: 0.001}\n")
    _write(
        folder / "status.json", {"state": "finished", "step": steps, "total_steps": steps, "updated": _BEGAN + steps}
    )
    for rank in range(RANKS):
        lost = [
            f"2023-11-14 22:13:20,000 WARNING rank {rank}: rank 3 is lost at step {one}\n" for one in first_steps[1:]
        ]
        (folder / f"logs/rank_{rank}.log").write_text("".join(lost))
    return folder


def _train_line(step: int) -> dict[str, Any]:
    wave = math.sin(step * 12.9898)
    loss = 2 / math.sqrt(step) + 0.05 * wave
    parts = {"data": 0.4, "forward": 11.0 + wave, "backward": 21.0 - wave, "allreduce": 4.0 + wave, "optimizer": 2.0}
    return {
        "time": _BEGAN + step, "step": step, "epoch": step // 500, "split": "train", "loss": loss,
        "accuracy": 1 - loss / 3, "lr": 1e-3, "grad_norm": loss, "samples_per_second": 5e4 + 1e3 * wave,
        "step_ms": {**parts, "logging": 0.1}, "device_step_ms": {**parts, "logging": 0.1},
        "step_percentiles_ms": {"p50": 38.5, "p95": 41.0 + wave, "max": 60.0 + 9 * wave},
        "exchange_ms": {"total": 15.0 + wave, "hidden": 11.0, "exposed": 4.0 + wave},
    }  # fmt: skip


def _telemetry_line(step: int, rank: int) -> dict[str, Any]:
    wave = math.sin(step * 12.9898 + rank)
    return {
        "time": _BEGAN + step + rank / 100, "step": step, "split": "telemetry", "rank": rank, "host": "n0",
        "cpu_percent": 101.0 + wave, "rss_mib": 3000.0 + rank, "read_mib_s": 5 * wave * wave, "write_mib_s": 0.0,
        "gpu_utilisation_percent": 95 + 4 * wave, "gpu_memory_mib": 30_000.0 + rank, "gpu_power_w": 600 + 50 * wave,
        "gpu_temperature_c": 60 + 5 * wave, "gpu_clock_mhz": 1980.0, "gpu_pcie_sent_mib_s": 900 + 50 * wave,
        "gpu_pcie_received_mib_s": 40.0, "gpu_nvlink_sent_mib_s": 9e4 + 1e3 * wave,
        "gpu_nvlink_received_mib_s": 9e4 - 1e3 * wave, "gpu_ecc_uncorrected": 0,
        **({"node_cpu_percent": 40 + 9 * wave, "node_memory_percent": 51.0} if rank == 0 else {}),
    }  # fmt: skip


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values))
