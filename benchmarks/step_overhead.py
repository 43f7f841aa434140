"""The step's own overhead: disttrain's loop beside a loop written by hand, in turns in one process group.

Both train MNIST's CNN on the same uint8 tensors in memory, by the same arithmetic. disttrain's side is all that a run
does: the real pipeline, `train_step`, the schedule, and its hooks (metrics every 25 steps, status file). The other side
notes nothing but the loss every 25 steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from harness import (
    REPOSITORY,
    Spread,
    alternate,
    argument_parser,
    describe_machine,
    mnist_folder,
    ratios,
    render_table,
    report,
    run_ranks,
    scratch_folder,
    train_with,
)
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

WARM_UP = 2  # pairs of blocks that are not counted
OVERRIDES = [
    "data.shift_px=0",
    "optim.schedule=constant",
    "optim.warmup_fraction=0",
    "optim.clip_norm=null",
    "train.label_smoothing=0",
    "train.ema_decay=0",
    "train.epochs=1000000",
    "checkpoint.every_steps=1000000000",
]


def main() -> None:
    """Start the ranks, read what they measured, say what it means."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of blocks that are counted")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps in a block")
    parser.add_argument("--global-batch-size", type=int, default=128, help="samples a step over both ranks")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="also a profile of disttrain's side, PROFILE.txt")
    parser.add_argument("--as-rank", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        run_rank(arguments, Path(arguments.as_rank))
        return
    machine = describe_machine()
    with scratch_folder() as scratch:
        data, what = mnist_folder(arguments.data, scratch)
        names = ("pairs", "steps", "global_batch_size", "ranks", "output")
        options = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
        flags = ["--profile"] if arguments.profile else []
        command = [f"--as-rank={scratch}", f"--data={data}", *options, *flags]
        measured = json.loads(run_ranks(__file__, command, scratch / "measured.json", arguments.ranks))
    summarise(arguments, measured, what, machine)


def summarise(arguments: argparse.Namespace, measured: dict[str, Any], what: str, machine: dict[str, Any]) -> None:
    """The table, and the two ratios: of the median steps, and of whole blocks (with what happens between steps)."""
    columns = {"step_s": "median step, ms", "wall_s": "block, ms", "cpu_s": "block, ms of CPU"}
    forms = {"step_s": ".3f", "wall_s": ".0f", "cpu_s": ".0f"}
    rows = [
        [name, *(Spread.of([1e3 * one for one in measured[key][name]]).render(forms[key]) for key in columns)]
        for name in ("disttrain", "by hand")
    ]
    ratio = {key: ratios(measured[key]["disttrain"], measured[key]["by hand"]) for key in columns}
    rows.append(["ratio of each pair", *(one.render() for one in ratio.values())])
    rows.append(["mean of the ratios", *(f"{one.mean:.3f}" for one in ratio.values())])
    least = {key: min(measured[key]["disttrain"]) / min(measured[key]["by hand"]) for key in columns}
    rows.append(["ratio of the fastest", *(f"{one:.3f}" for one in least.values())])
    text = (
        f"MNIST CNN on {what}, {arguments.ranks} gloo ranks, global batch {arguments.global_batch_size}: "
        f"{arguments.pairs} pairs of blocks of {arguments.steps} steps, in turns in one process group. "
        "Medians over the blocks (least - greatest).\n\n" + render_table(["loop", *columns.values()], rows)
    )
    measured |= {"ratio": ratio, "ratio_of_the_fastest": least}
    config = {"file": "configs/mnist_cnn.yaml", "overrides": OVERRIDES, **vars(arguments), "data": what}
    report("step_overhead", arguments, text, config, measured, machine)


# On each rank -------------------------------------------------------------------------------------------------------


def run_rank(arguments: argparse.Namespace, scratch: Path) -> None:
    """Take the place of `train` in a real run, and let both loops take turns there."""
    from disttrain.config import load_config
    from disttrain.data.open import open_dataset

    sizes = [f"batch.global_batch_size={arguments.global_batch_size}", f"data.path={arguments.data}"]
    config = load_config(REPOSITORY / "configs/mnist_cnn.yaml", [*OVERRIDES, *sizes])

    def first_samples() -> Any:
        """As many samples as a block takes: a block is an epoch."""
        dataset = open_dataset(config.data)
        count = arguments.steps * arguments.global_batch_size
        return dataclasses.replace(dataset, splits={**dataset.splits, "train": dataset.splits["train"][:count]})

    def take_turns(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        plan = parts.pipeline.plan
        assert plan.steps_per_epoch == arguments.steps, "--steps x --global-batch-size exceeds the training samples"
        ours = Ours(parts, position, hooks)
        by_hand = ByHand(parts, config.optim, config.train.seed)
        subjects: dict[str, Callable[[list[float]], None]] = {"disttrain": ours, "by hand": by_hand}
        blocks: dict[str, list[Block]] = {name: [] for name in subjects}

        def measure(name: str) -> Callable[[], float]:
            def block() -> float:
                blocks[name].append(run_block(subjects[name]))
                return blocks[name][-1].wall_s

            return block

        alternate({name: measure(name) for name in subjects}, arguments.pairs, WARM_UP)
        if parts.comm.rank == 0:
            measured = {
                field.name: {
                    name: [getattr(one, field.name) for one in done[WARM_UP:]] for name, done in blocks.items()
                }
                for field in dataclasses.fields(Block)
            }
            (scratch / "measured.json").write_text(json.dumps(measured))
        if arguments.profile:
            write_profile(ours, Path(arguments.output) / f"step_overhead_profile_{parts.comm.rank}.txt")

    train_with(take_turns, config, scratch / "run", first_samples)


@dataclasses.dataclass(frozen=True)
class Block:
    """What one block took on one rank."""

    step_s: float
    """The median step."""
    wall_s: float
    cpu_s: float
    """Processor time of all threads: what other programs on the machine change least."""


def run_block(epoch: Callable[[list[float]], None]) -> Block:
    """Run an epoch that notes the time after each step, from an even start of all ranks."""
    dist.barrier()
    times, cpu = [time.perf_counter()], time.process_time()
    epoch(times)
    cpu_s = time.process_time() - cpu
    step_s = statistics.median(after - before for before, after in itertools.pairwise(times))
    return Block(step_s, times[-1] - times[0], cpu_s)


class Ours:
    """An epoch of disttrain's own `train`."""

    def __init__(self, parts: Any, position: Any, hooks: Any) -> None:
        self.parts, self.position, self.hooks = parts, position, hooks

    def __call__(self, times: list[float]) -> None:
        """Notes the time after each step, where `train` asks whether to stop."""
        from disttrain.loop import train

        should_stop = type(self.hooks).should_stop

        def noted(position: Any) -> bool:
            times.append(time.perf_counter())
            return should_stop(self.hooks, position)

        self.hooks.should_stop = noted
        last = self.position.step + self.parts.pipeline.plan.steps_per_epoch
        train(self.parts, self.position, last, self.hooks)


class ByHand:
    """The same training as one would write it for this one purpose."""

    def __init__(self, parts: Any, optim: Any, seed: int) -> None:
        from disttrain.models.mnist import MnistCnn

        samples, plan = parts.pipeline.samples, parts.pipeline.plan
        self.images, self.labels = samples.inputs, samples.targets
        self.count, self.batch_size = plan.sample_count, plan.global_batch_size
        self.mean, self.std = samples.transform.mean[0], samples.transform.std[0]
        torch.manual_seed(seed)
        network = MnistCnn().to(memory_format=torch.channels_last)
        decay = [parameter for parameter in network.parameters() if parameter.ndim >= 2]
        no_decay = [parameter for parameter in network.parameters() if parameter.ndim < 2]
        groups = [{"params": decay, "weight_decay": optim.weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True)
        self.model: nn.Module = DistributedDataParallel(network, gradient_as_bucket_view=True)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, times: list[float]) -> None:
        """One epoch; the time is noted after each step."""
        rank, world_size = dist.get_rank(), dist.get_world_size()
        order = torch.randperm(self.count, generator=self.generator)[rank::world_size]
        for step, index in enumerate(order.split(self.batch_size // world_size), start=1):
            images = ((self.images[index].float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(self.model(images), self.labels[index])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if step % 25 == 0:
                loss.item()
            times.append(time.perf_counter())


def write_profile(epoch: Callable[[list[float]], None], path: Path) -> None:
    """Where Python's time goes in two epochs."""
    import cProfile
    import io
    import pstats

    profile = cProfile.Profile()
    with profile:
        epoch([])
        epoch([])
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(45)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue())


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
