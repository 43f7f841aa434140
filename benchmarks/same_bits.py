"""What the same bits on any number of workers cost: `batch.shards` beside today's way, in turns in one process group.

Both drive disttrain's own `train_step` on the same drawn samples in memory. The step without shards is DDP's, on as
many threads as a rank has cores; with shards a rank has one thread, and on one rank also as many as there are cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from harness import (
    REPOSITORY,
    Spread,
    alternate,
    argument_parser,
    describe_machine,
    ratios,
    render_table,
    report,
    run_ranks,
    scratch_folder,
)

NETWORKS = {
    "PlanesNet CNN, 128": ("planesnet_cnn", 128),
    "ResNet-18, 64": ("torchvision:resnet18", 64),
    "ResNet-18, 512": ("torchvision:resnet18", 512),
}
"""By name and global batch size."""
TODAY = "without shards"
WARM_UP = 1


@dataclasses.dataclass(frozen=True)
class Way:
    """One of those that take turns."""

    shards: int
    threads: int

    @property
    def name(self) -> str:
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.shards} shards{threads}" if self.shards else f"{TODAY}{threads}"


def main() -> None:
    """Start the ranks for each number of them, read what they measured, say what it means."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=10, help="blocks of each way that are counted")
    parser.add_argument("--steps", type=int, nargs=len(NETWORKS), default=[20, 6, 1], help="steps in a block of each")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--shards", type=int, nargs="+", default=[8])
    parser.add_argument("--as-rank", nargs=3, metavar=("RESULT", "NETWORK", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        result, network, steps = arguments.as_rank
        run_rank(Path(result), network, int(steps), arguments.shards, arguments.pairs)
        return
    machine = describe_machine()
    measured: dict[str, dict[int, Any]] = {}
    with scratch_folder() as scratch:
        result = scratch / "measured.json"
        for network, steps in zip(NETWORKS, arguments.steps, strict=True):
            measured[network] = {}
            for ranks in arguments.ranks:
                shards = [str(one) for one in arguments.shards if one >= ranks]
                command = [f"--pairs={arguments.pairs}", "--shards", *shards]
                command += ["--as-rank", str(result), network, str(steps)]
                measured[network][ranks] = json.loads(run_ranks(__file__, command, result, ranks))
    summarise(arguments, measured, machine)


def summarise(arguments: argparse.Namespace, measured: dict[str, dict[int, Any]], machine: dict[str, Any]) -> None:
    """The time of a step, and how many times that of today's way it is."""
    rows = [
        [network, str(ranks), name, *cells]
        for network, by_ranks in measured.items()
        for ranks, kinds in by_ranks.items()
        for name, cells in cells_by_way(kinds).items()
    ]
    steps = ", ".join(map(str, arguments.steps))
    text = (
        f"Drawn 20x20 chips, fp32, gloo: {arguments.pairs} blocks of each way, of {steps} steps for the networks in "
        "turn, alternating in one process group. Medians over the blocks (least - greatest).\n\n"
    ) + render_table(
        [
            "network, global batch",
            "ranks",
            "way",
            "step, ms",
            "times the first",
            "ms of CPU on a rank",
            "times the first",
        ],
        rows,
    )
    names = ("pairs", "steps", "ranks", "shards")
    config = {name: getattr(arguments, name) for name in names}
    report("same_bits", arguments, text, {**config, "networks": NETWORKS}, measured, machine)


def cells_by_way(kinds: dict[str, dict[str, list[float]]]) -> dict[str, list[str]]:
    """For each way its times, and their ratios to those of the first way."""
    cells: dict[str, list[str]] = {}
    for by_way in kinds.values():
        first = next(iter(by_way))
        for name, values in by_way.items():
            shown = Spread.of([1e3 * one for one in values]).render(".1f")
            ratio = "1" if name == first else ratios(values, by_way[first]).render()
            cells.setdefault(name, []).extend([shown, ratio])
    return cells


# On each rank -------------------------------------------------------------------------------------------------------


def run_rank(result: Path, network: str, steps: int, shards: list[int], pairs: int) -> None:
    """Let the ways take turns; rank zero writes the median step of every block."""
    world_size, threads = int(os.environ["WORLD_SIZE"]), torch.get_num_threads()
    ways = [Way(0, threads), *(Way(one, 1) for one in shards)]
    if world_size == 1 and threads > 1:
        ways += [Way(one, threads) for one in shards]
    dist.init_process_group("gloo")
    cpu_s: dict[str, list[float]] = {way.name: [] for way in ways}
    blocks = {way.name: block_of(way, network, steps, cpu_s[way.name]) for way in ways}
    step_s = alternate(blocks, pairs, WARM_UP)
    if dist.get_rank() == 0:
        counted = {name: values[WARM_UP:] for name, values in cpu_s.items()}
        result.write_text(json.dumps({"step_s": step_s, "cpu_s": counted}))
    dist.barrier()
    dist.destroy_process_group()


def block_of(way: Way, network: str, steps: int, cpu_s: list[float]) -> Callable[[], float]:
    """Trains for `steps` steps; returns the median step in seconds, and notes the processor time of a step."""
    from disttrain.loop import train_step
    from disttrain.telemetry.tally import Tally

    torch.set_num_threads(way.threads)
    parts = build_parts(way.shards, *NETWORKS[network], steps)
    done = 0

    def block() -> float:
        nonlocal done
        torch.set_num_threads(way.threads)
        times, tally = [], Tally(parts.comm.device)
        dist.barrier()
        cpu_began = time.process_time()
        for batch in parts.pipeline.epoch(0):
            began = time.perf_counter()
            train_step(parts, batch, done, tally)
            times.append(time.perf_counter() - began)
            done += 1
        cpu_s.append((time.process_time() - cpu_began) / steps)
        return statistics.median(times)

    return block


def build_parts(shards: int, network: str, batch_size: int, steps: int) -> Any:
    """The parts of a training on this rank, in the process group that there is."""
    from disttrain.config import build_config
    from disttrain.data.pipeline import InMemorySamples, TrainPipeline
    from disttrain.data.shards import build_plan
    from disttrain.loop import Parts
    from disttrain.models.build import build_model
    from disttrain.optim.loss import build_loss
    from disttrain.optim.optimizer import build_optimizer
    from disttrain.optim.precision import Precision
    from disttrain.optim.step_undo import StepUndo
    from disttrain.telemetry.phases import PhaseTimer

    config = build_config({"model": {"name": network}, "batch": {"global_batch_size": batch_size, "shards": shards}})
    rank, world_size, device = dist.get_rank(), dist.get_world_size(), torch.device("cpu")
    torch.manual_seed(0)
    shape = (1, 28, 28) if network.startswith("mnist") else (3, 20, 20)
    model = build_model(config.model, shape, 2).to(memory_format=torch.channels_last)
    comm = build_comm(config, rank, world_size, device)
    wrapped = comm.wrap(model)
    count = steps * batch_size
    draw = torch.Generator().manual_seed(1)
    samples = InMemorySamples(
        torch.randn(count, *shape, generator=draw), torch.randint(2, (count,), generator=draw), None, device
    )
    pipeline = TrainPipeline(samples, np.arange(count), build_plan(config.batch, count, world_size), rank, 0)
    return Parts(
        model=wrapped, optimizer=build_optimizer(config.optim, model), schedule=lambda step: 1e-3,
        precision=Precision("fp32", device), comm=comm, pipeline=pipeline, loss=build_loss(), ema=None, clip_norm=1.0,
        seed=0, phases=PhaseTimer(), on_nonfinite=lambda position: None, undo=StepUndo(model),
    )  # fmt: skip


def build_comm(config: Any, rank: int, world_size: int, device: torch.device) -> Any:
    """The backend that the config asks for, within the process group that there is already."""
    from disttrain.comm.ddp import DdpComm
    from disttrain.comm.tree_comm import TreeComm
    from disttrain.telemetry.phases import PhaseTimer

    store, phases = dist.HashStore(), PhaseTimer()
    with mock.patch.object(dist, "init_process_group"):
        if config.batch.shards:
            return TreeComm(config, store, rank, world_size, device, phases)
        return DdpComm(config.comm, store, rank, world_size, device, phases)


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
