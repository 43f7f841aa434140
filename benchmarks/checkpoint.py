"""What saving every 10 steps costs: disttrain's own checkpoints beside `torch.save` and torch's DCP `async_save`.

Two gloo ranks train ResNet-50 (1,000 classes, 25.6 M parameters, AdamW: about 300 MB of state) by the real loop. Blocks
of 10 steps take turns; in each but those that save nothing, one save begins after the first step, and the block ends
when it is on disk: nothing is left for the next block. The stall is the time that the training thread spends in the
save itself, on the rank where it is longest; what the thread beside it takes from the steps shows in the slowdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future
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
    timed,
    train_with,
)

INTERVAL = 10
WARM_UP = 1  # rounds that are not counted: buffers are allocated in them
NOTHING, OURS, SYNCHRONOUS, DCP = "nothing is saved", "disttrain", "torch.save on rank 0", "DCP async_save"


def main() -> None:
    """Start the ranks, read what they measured, say what it means."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=8, help="blocks of each kind that are counted")
    parser.add_argument("--global-batch-size", type=int, default=64, help="samples a step over all ranks")
    parser.add_argument("--image-size", type=int, default=64, help="height and width of the images in pixels")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--as-rank", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        run_rank(arguments, Path(arguments.as_rank))
        return
    machine = describe_machine()
    with scratch_folder() as scratch:
        names = ("rounds", "global_batch_size", "image_size", "ranks")
        options = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
        command = [f"--as-rank={scratch}", *options]
        measured = json.loads(run_ranks(__file__, command, scratch / "measured.json", arguments.ranks))
    summarise(arguments, measured, machine)


def summarise(arguments: argparse.Namespace, measured: dict[str, Any], machine: dict[str, Any]) -> None:
    """Stall and slowdown of each way to save, and how near the copy is to what memory can do."""
    block_s, stall_s = measured["block_s"], measured["stall_s"]
    usual = Spread.of(block_s[NOTHING])
    rows = [[NOTHING, "", "", f"{usual.render('.2f')}", "1"]]
    for name in (OURS, SYNCHRONOUS, DCP):
        shares = Spread.of([100 * one / two for one, two in zip(stall_s[name], block_s[name], strict=True)])
        slowdown = ratios(block_s[name], block_s[NOTHING])
        stall_ms = Spread.of([1e3 * one for one in stall_s[name]])
        rows.append(
            [
                name,
                stall_ms.render(".0f"),
                shares.render(".2f"),
                Spread.of(block_s[name]).render(".2f"),
                slowdown.render(),
            ]
        )
        measured.setdefault("stall_percent", {})[name] = shares
        measured.setdefault("slowdown", {})[name] = slowdown
    copy, plain = (Spread.of(measured[name]) for name in ("copy_gb_per_s", "memcpy_gb_per_s"))
    share = ratios(measured["copy_gb_per_s"], measured["memcpy_gb_per_s"])
    measured["copy_to_memcpy"] = share
    columns = ["way to save", "stall, ms", "stall, % of training time", f"{INTERVAL} steps, s", "slowdown"]
    text = (
        f"ResNet-50 ({measured['parameters']:,} parameters, {measured['state_bytes'] / 1e6:.0f} MB of state), "
        f"{arguments.ranks} gloo ranks, global batch {arguments.global_batch_size}, images of {arguments.image_size} "
        f"pixels, a save every {INTERVAL} steps; {arguments.rounds} blocks of each kind, in turns. Medians (least - "
        f"greatest).\n\n{render_table(columns, rows)}\n\n"
        f"The copy runs at {copy.render('.1f')} GB/s on each rank, a plain copy of as many bytes in one piece at "
        f"{plain.render('.1f')} GB/s: {share.render('.2f')} of it."
    )
    report("checkpoint", arguments, text, {"interval": INTERVAL, **vars(arguments)}, measured, machine)


# On each rank -------------------------------------------------------------------------------------------------------


def run_rank(arguments: argparse.Namespace, scratch: Path) -> None:
    """Take the place of `train` in a real run, and let the ways to save take turns there."""
    from disttrain.config import build_config
    from disttrain.data.base import Dataset, ImageArrays

    size, classes = arguments.image_size, 1000
    config = build_config(
        {
            "model": {"name": "torchvision:resnet50"},
            "batch": {"global_batch_size": arguments.global_batch_size},
            "train": {"epochs": 10**6, "device": "cpu", "log_every_steps": 1000},
            "checkpoint": {"every_steps": INTERVAL, "keep": 1},
        }
    )

    def noise() -> Dataset:
        draw = np.random.RandomState(0)
        labels = np.arange(4096) % classes
        images = draw.randint(0, 256, (len(labels), 3, size, size)).astype(np.uint8)
        names = tuple(f"class {number}" for number in range(classes))
        splits = {"train": np.arange(len(labels)), "val": np.arange(0), "test": np.arange(0)}
        return Dataset(ImageArrays(images, labels, names), splits, names, "", labels)

    def take_turns(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        blocks = Blocks(parts, position, hooks, scratch / "others")
        blocks.train_until(INTERVAL - 1)  # a block begins with the step after which a save is due
        ways = {NOTHING: blocks.nothing, OURS: blocks.ours, SYNCHRONOUS: blocks.synchronous, DCP: blocks.dcp}
        for name in ways:
            blocks.stall_s[name] = []
        subjects = {name: (lambda name=name, way=way: blocks.run(name, way)) for name, way in ways.items()}
        block_s = alternate(subjects, arguments.rounds, WARM_UP)
        if parts.comm.rank == 0:
            measured = {
                "parameters": sum(parameter.numel() for parameter in parts.model.parameters()),
                "state_bytes": blocks.state_bytes,
                "block_s": block_s,
                "stall_s": {name: found[WARM_UP:] for name, found in blocks.stall_s.items()},
                "copy_gb_per_s": blocks.copy_gb_per_s[WARM_UP:],
                "memcpy_gb_per_s": blocks.memcpy_gb_per_s[WARM_UP:],
            }
            (scratch / "measured.json").write_text(json.dumps(measured))

    train_with(take_turns, config, scratch / "run", noise)


class Blocks:
    """Blocks of steps by disttrain's own `train`, each with its way to save. Every method is called on every rank."""

    def __init__(self, parts: Any, position: Any, hooks: Any, folder: Path) -> None:
        self.parts, self.position, self.hooks, self.folder = parts, position, hooks, folder
        self.comm = parts.comm
        self.stall_s: dict[str, list[float]] = {}
        self.copy_gb_per_s: list[float] = []
        self.memcpy_gb_per_s: list[float] = []
        self.state_bytes = 0
        group = dist.new_group(backend="gloo")  # DCP's thread talks over one of its own
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._real_save = hooks.save
        hooks.save = lambda position, tally: None

    def train_until(self, step: int) -> None:
        """Steps of the real loop."""
        from disttrain.loop import train

        train(self.parts, self.position, step, self.hooks)

    def run(self, name: str, way: Callable[[], tuple[float, Callable[[], Any]]]) -> float:
        """One block. `way` begins a save, and returns its stall in seconds and what waits until it is on disk."""
        saves: list[tuple[float, Callable[[], Any]]] = []

        def save(position: Any, tally: Any) -> None:
            self._tally = tally
            if position.step % INTERVAL == 0:
                saves.append(way())

        self.hooks.save = save
        if self.comm.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
        dist.barrier()
        began = time.perf_counter()
        self.train_until(self.position.step + INTERVAL)
        ((stall_s, wait),) = saves
        wait()
        dist.barrier()
        block_s = time.perf_counter() - began
        times = torch.tensor([block_s, stall_s], dtype=torch.float64)
        dist.all_reduce(times, dist.ReduceOp.MAX)
        block_s, stall_s = times.tolist()
        self.stall_s[name].append(stall_s)
        if name == OURS:
            self.memcpy_gb_per_s.append(memcpy_gb_per_s(self._copied))
        return block_s

    def nothing(self) -> tuple[float, Callable[[], Any]]:
        """No save."""
        return 0.0, lambda: None

    def ours(self) -> tuple[float, Callable[[], Any]]:
        """The run's own hook: its share of the state and the copy; not the comparison of weights before it."""
        import disttrain.training.run
        from disttrain.checkpoint.state import rank_shard

        writer = self.hooks.checkpointing.writer
        stall_s = 0.0

        def stalling(work: Callable[..., Any]) -> Callable[..., Any]:
            def run(*given: Any) -> Any:
                nonlocal stall_s
                began = time.perf_counter()
                try:
                    return work(*given)
                finally:
                    stall_s += time.perf_counter() - began

            return run

        real_take = writer._copy.take

        def take(tensors: dict[str, torch.Tensor]) -> None:
            began = time.perf_counter()
            real_take(tensors)
            self._copied = sum(tensor.nbytes for tensor in tensors.values())
            self.copy_gb_per_s.append(self._copied / (time.perf_counter() - began) / 1e9)

        with (
            mock.patch.object(disttrain.training.run, "rank_shard", stalling(rank_shard)),
            mock.patch.object(writer, "save", stalling(writer.save)),
            mock.patch.object(writer._copy, "take", take),
        ):
            self._real_save(self.position, self._tally)

        def wait() -> None:
            assert writer.wait(60)
            assert writer.saved_step == self.position.step - INTERVAL + 1
            total = torch.tensor(self._copied)
            dist.all_reduce(total)
            self.state_bytes = int(total)

        return stall_s, wait

    def synchronous(self) -> tuple[float, Callable[[], Any]]:
        """Rank zero writes everything while the others wait for it in the next step, as most scripts do."""
        began = time.perf_counter()
        if self.comm.rank == 0:
            state = {"model": self.parts.model.state_dict(), "optimizer": self.parts.optimizer.state_dict()}
            torch.save(state, self.folder / "checkpoint.pt")
        return time.perf_counter() - began, lambda: None

    def dcp(self) -> tuple[float, Callable[[], Any]]:
        """As torch's documentation has it."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_state_dict

        began = time.perf_counter()
        model_state, optimizer_state = get_state_dict(self.parts.model, self.parts.optimizer)
        state = {"model": model_state, "optimizer": optimizer_state}
        future = dcp.async_save(state, checkpoint_id=str(self.folder / "dcp"), process_group=self._group)
        assert isinstance(future, Future)
        return time.perf_counter() - began, future.result


def memcpy_gb_per_s(count: int) -> float:
    """The median of three copies of so many bytes in one piece, on all ranks at once, after one that is not counted:
    fresh pages cost more."""
    source, target = torch.ones(count, dtype=torch.uint8), torch.zeros(count, dtype=torch.uint8)
    dist.barrier()
    took = [timed(lambda: target.copy_(source)) for _ in range(4)]
    return count / statistics.median(took[1:]) / 1e9


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
