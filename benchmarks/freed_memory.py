"""What it brings that a rank on the CPU keeps the memory that it frees (disttrain/system/memory.py).

Ranks that keep it and ranks that have the C library's own way, as processes in turns. Both drive disttrain's own
`train_step`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from functools import partial
from pathlib import Path

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
from same_bits import build_parts

NETWORKS = {
    "MNIST MLP, 128": ("mnist_mlp", 128),
    "PlanesNet CNN, 128": ("planesnet_cnn", 128),
    "ResNet-18, 64": ("torchvision:resnet18", 64),
}
WAYS = ("kept", "given back")


def main() -> None:
    """Let both kinds of ranks take turns, and compare."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of processes that are counted")
    parser.add_argument("--steps", type=int, default=30, help="steps of each, of which the first five are not counted")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--as-rank", nargs=3, metavar=("RESULT", "NETWORK", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        result, network, way = arguments.as_rank
        run_rank(Path(result), network, way, arguments.steps)
        return
    machine = describe_machine()
    measured = {}
    with scratch_folder() as scratch:
        for network in NETWORKS:
            measured[network] = measure(arguments, network, scratch / "measured.json")
    rows = [[network, way, *cells(by_way, way)] for network, by_way in measured.items() for way in WAYS]
    text = (
        f"{arguments.ranks} gloo ranks, fp32, {arguments.pairs} pairs of runs of {arguments.steps} steps, in turns. "
        "Medians over the runs (least - greatest), of rank zero.\n\n"
    ) + render_table(
        ["network, global batch", "freed memory is", "step, ms", "kept / this", "ms of CPU", "kept / this",
         "page faults in a step", "most memory, MiB"],
        rows,
    )  # fmt: skip
    config = {name: getattr(arguments, name) for name in ("pairs", "steps", "ranks")}
    report("freed_memory", arguments, text, config, measured, machine)


def cells(by_way: dict[str, list[dict[str, float]]], way: str) -> list[str]:
    """Times with the ratio to them; page faults and memory without."""

    def values(figure: str, of: str, unit: float = 1.0) -> list[float]:
        return [unit * one[figure] for one in by_way[of]]

    times = [
        cell
        for figure in ("step_s", "cpu_s")
        for cell in (
            Spread.of(values(figure, way, 1e3)).render(".1f"),
            ratios(values(figure, "kept"), values(figure, way)).render(".2f"),
        )
    ]
    return [*times, *(Spread.of(values(figure, way)).render(".0f") for figure in ("faults", "peak_mib"))]


def measure(arguments: argparse.Namespace, network: str, result: Path) -> dict[str, list[dict[str, float]]]:
    """What every run of each way has measured."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}

    def one(way: str) -> float:
        command = [f"--steps={arguments.steps}", "--as-rank", str(result), network, way]
        found[way].append(json.loads(run_ranks(__file__, command, result, arguments.ranks)))
        return found[way][-1]["step_s"]

    alternate({way: partial(one, way) for way in WAYS}, arguments.pairs, warm_up=0)
    return found


def run_rank(result: Path, network: str, way: str, steps: int) -> None:
    """On each rank: train; rank zero writes the medians."""
    from disttrain.loop import train_step
    from disttrain.system.memory import keep_freed_memory
    from disttrain.telemetry.tally import Tally

    if way == "kept" and not keep_freed_memory():
        raise SystemExit("this machine's C library is not glibc, or its settings are fixed by the environment")
    dist.init_process_group("gloo")
    parts = build_parts(0, *NETWORKS[network], steps)
    tally = Tally(parts.comm.device)
    figures: dict[str, list[float]] = {"step_s": [], "cpu_s": [], "faults": []}
    for step, batch in enumerate(parts.pipeline.epoch(0)):
        before = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        train_step(parts, batch, step, tally)
        after = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for name, began, ended in zip(figures, before, after, strict=True):
            figures[name].append(ended - began)
    if dist.get_rank() == 0:
        medians = {name: statistics.median(values[5:]) for name, values in figures.items()}
        medians["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result.write_text(json.dumps(medians))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
