"""DDP and Horovod, started by the agent and by mpirun, side by side: training speed, and the bandwidth of an allreduce.

Each measurement is a job of its own: a real run of disttrain, in which only the steps after a warm-up are timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from harness import (
    REPOSITORY,
    Spread,
    alternate,
    argument_parser,
    describe_machine,
    ratios,
    render_table,
    report,
    scratch_folder,
    train_with,
)

ENGINES = {
    "DDP, gloo": ("ddp", "agent"),
    "DDP under mpirun, gloo": ("ddp", "mpirun"),
    "Horovod, gloo": ("horovod", "agent"),
    "Horovod under mpirun, MPI": ("horovod", "mpirun"),
}
NETWORKS = {
    "PlanesNet CNN": ["batch.global_batch_size=128"],
    "ResNet-18": [
        "model.name=torchvision.models:resnet18",
        "model.kwargs={num_classes: 2}",
        "batch.global_batch_size=64",
    ],
}
OVERRIDES = [
    "data.kwargs={count: 4000}",
    "data.val_fraction=0.0",
    "data.test_fraction=0.0",
    "train.epochs=1000000",
    "train.ema_decay=0",
    "checkpoint.every_steps=1000000000",
]
WARM_UP_STEPS = 5
SIZES = [2**power for power in range(10, 27, 2)]
"""Bytes, 1 KiB to 64 MiB."""


def main() -> None:
    """Let the engines take turns; say what came out."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each engine")
    parser.add_argument("--steps", type=int, nargs=2, default=[60, 10], help="timed steps of either network")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--as-rank", nargs=4, metavar=("RESULT", "BACKEND", "NETWORK", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        run_rank(*arguments.as_rank)
        return
    if importlib.util.find_spec("horovod") is None or shutil.which("mpirun") is None:
        raise SystemExit("this needs Horovod and mpirun: launchers/install_horovod.sh, apt-get install openmpi-bin")
    machine = describe_machine()
    speeds, sweeps = {}, {name: [] for name in ENGINES}  # type: dict[str, Any], dict[str, list[dict[str, float]]]
    with scratch_folder() as scratch:
        for network, steps in zip(NETWORKS, arguments.steps, strict=True):

            def measure(engine: str, network: str = network, steps: int = steps) -> float:
                found = run_job(engine, network, steps, arguments.ranks, scratch)
                if found["seconds_by_bytes"]:
                    sweeps[engine].append(found["seconds_by_bytes"])
                return float(found["samples_per_second"])

            subjects = {engine: (lambda engine=engine: measure(engine)) for engine in ENGINES}
            speeds[network] = alternate(subjects, arguments.rounds, warm_up=0)
    summarise(arguments, speeds, sweeps, machine)


def run_job(engine: str, network: str, steps: int, ranks: int, scratch: Path) -> dict[str, Any]:
    """One job of so many ranks; what its rank zero wrote."""
    backend, launcher = ENGINES[engine]
    result = scratch / "result.json"
    result.unlink(missing_ok=True)
    environ = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks))}
    environ["PYTHONPATH"] = str(REPOSITORY)
    if launcher == "mpirun":
        from disttrain.launch.mpi.implementation import find_mpi

        mpi = find_mpi(want_mpich=False)
        start = [mpi.program, *mpi.options([], environ), "-np", str(ranks), "-H", f"localhost:{ranks}", sys.executable]
    else:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*start, __file__, "--as-rank", str(result), backend, network, str(steps)]
    done = subprocess.run(command, env=environ, cwd=scratch, capture_output=True, text=True, check=False)
    if not result.exists():
        raise SystemExit(f"{engine}: ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-6000:]}")
    content: dict[str, Any] = json.loads(result.read_text())
    return content


def summarise(
    arguments: argparse.Namespace,
    speeds: Mapping[str, Mapping[str, list[float]]],
    sweeps: Mapping[str, list[dict[str, float]]],
    machine: dict[str, Any],
) -> None:
    """Two tables: training, and bytes a second by message size."""
    first = next(iter(ENGINES))
    rows = [
        [
            engine,
            *(
                cell
                for measured in speeds.values()
                for cell in (Spread.of(measured[engine]).render(",.0f"), ratio(measured, engine, first))
            ),
        ]
        for engine in ENGINES
    ]
    header = ["engine", *(title for name in speeds for title in (f"{name}, samples/s", "times the first"))]
    bandwidth = {
        engine: {int(size): Spread.of([int(size) / one[size] / 1e6 for one in found]) for size in found[0]}
        for engine, found in sweeps.items()
    }
    table = render_table(
        ["message", *bandwidth],
        [[_size(size), *(one[size].render(",.1f") for one in bandwidth.values())] for size in SIZES],
    )
    text = (
        f"{arguments.ranks} ranks on this machine, drawn 20x20 chips, fp32; {arguments.rounds} jobs of each engine, in "
        f"turns; {arguments.steps[0]} timed steps of 128 (PlanesNet CNN) and {arguments.steps[1]} of 64 (ResNet-18). "
        f"Medians (least - greatest).\n\n{render_table(header, rows)}\n\n"
        f"One allreduce of float32, MB/s (size of the message / time):\n\n{table}"
    )
    named = {**vars(arguments), "file": "configs/synthetic_planes.yaml", "overrides": OVERRIDES, "networks": NETWORKS}
    measured = {"samples_per_second": speeds, "mb_per_second": bandwidth}
    report("engines", arguments, text, named, measured, machine)


def ratio(measured: Mapping[str, list[float]], engine: str, first: str) -> str:
    """Of the same rounds."""
    return "1" if engine == first else ratios(measured[engine], measured[first]).render(".2f")


def _size(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"


# On each rank -------------------------------------------------------------------------------------------------------


def run_rank(result: str, backend: str, network: str, steps: str) -> None:
    """Take the place of `train` in a real run: time its steps there, then allreduces beside them."""
    from disttrain.config import load_config
    from disttrain.loop import train

    overrides = [*OVERRIDES, *NETWORKS[network], f"train.backend={backend}"]
    config = load_config(REPOSITORY / "configs/synthetic_planes.yaml", overrides)

    def loop(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        train(parts, position, WARM_UP_STEPS, hooks)
        parts.comm.barrier()
        began = time.perf_counter()
        train(parts, position, WARM_UP_STEPS + int(steps), hooks)
        parts.comm.barrier()
        seconds = time.perf_counter() - began
        samples = parts.pipeline.plan.samples_before(WARM_UP_STEPS + int(steps)) - parts.pipeline.plan.samples_before(
            WARM_UP_STEPS
        )
        sweep = {size: allreduce_s(parts.comm, size) for size in SIZES} if network == next(iter(NETWORKS)) else {}
        if parts.comm.rank == 0:
            content = {"samples_per_second": samples / seconds, "seconds_by_bytes": sweep}
            Path(result).write_text(json.dumps(content))

    train_with(loop, config, Path(result).with_suffix(".run"))


def allreduce_s(comm: Any, size: int) -> float:
    """Mean seconds of an allreduce of so many bytes, of several after one that is not counted."""
    tensor = torch.zeros(size // 4, device=comm.device)
    repeats = max(3, min(50, 2**25 // size))
    comm.all_reduce(tensor)
    comm.barrier()
    began = time.perf_counter()
    for _ in range(repeats):
        comm.all_reduce(tensor)
    return (time.perf_counter() - began) / repeats


if __name__ == "__main__":
    main()
