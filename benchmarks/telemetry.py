"""What telemetry and a tracker cost: disttrain's own loop with them and without, in turns in one process group.

With them each rank samples every 0.1 s, a hundred times as often as by default, so that a small cost can be seen at
all, and rank zero tells TensorBoard every line. What is printed is the ratio as measured; a hundredth of what is above
1 is what `telemetry.every_s=10` costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from step_overhead import OVERRIDES, WARM_UP, Block, Ours, run_block

EVERY_S = 0.1


def main() -> None:
    """Start the ranks, read what they measured, say what it means."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of blocks that are counted")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps in a block")
    parser.add_argument("--global-batch-size", type=int, default=128, help="samples a step over both ranks")
    parser.add_argument("--as-rank", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        run_rank(arguments, Path(arguments.as_rank))
        return
    machine = describe_machine()
    with scratch_folder() as scratch:
        data, what = mnist_folder(arguments.data, scratch)
        names = ("pairs", "steps", "global_batch_size", "output")
        options = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
        command = [f"--as-rank={scratch}", f"--data={data}", *options]
        measured = json.loads(run_ranks(__file__, command, scratch / "measured.json", 2))
    columns = {"step_s": "median step, ms", "wall_s": "block, ms", "cpu_s": "block, ms of CPU"}
    rows = [
        [name, *(Spread.of([1e3 * one for one in measured[key][name]]).render(".2f") for key in columns)]
        for name in ("with", "without")
    ]
    ratio = {key: ratios(measured[key]["with"], measured[key]["without"]) for key in columns}
    rows.append(["ratio of each pair", *(one.render(".4f") for one in ratio.values())])
    rows.append(["mean of the ratios", *(f"{one.mean:.4f}" for one in ratio.values())])
    text = (
        f"MNIST CNN on {what}, 2 gloo ranks, global batch {arguments.global_batch_size}: {arguments.pairs} pairs of "
        f"blocks of {arguments.steps} steps, in turns in one process group, with and without a sample every "
        f"{EVERY_S:g} s on each rank and TensorBoard. Medians over the blocks (least - greatest).\n\n"
        + render_table(["telemetry", *columns.values()], rows)
    )
    config = {"file": "configs/mnist_cnn.yaml", "overrides": OVERRIDES, **vars(arguments), "data": what}
    report("telemetry", arguments, text, config, measured | {"ratio": ratio}, machine)


def run_rank(arguments: argparse.Namespace, scratch: Path) -> None:
    """Take the place of `train` in a real run, and let the loop take turns with and without there."""
    from disttrain.config import load_config
    from disttrain.data.open import open_dataset

    sizes = [f"batch.global_batch_size={arguments.global_batch_size}", f"data.path={arguments.data}"]
    config = load_config(REPOSITORY / "configs/mnist_cnn.yaml", [*OVERRIDES, *sizes, "telemetry.every_s=0"])

    def first_samples() -> Any:
        dataset = open_dataset(config.data)
        count = arguments.steps * arguments.global_batch_size
        return dataclasses.replace(dataset, splits={**dataset.splits, "train": dataset.splits["train"][:count]})

    def take_turns(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        ours = Ours(parts, position, hooks)
        subjects: dict[str, Callable[[list[float]], None]] = {
            "with": Watched(ours, parts.comm.device, scratch), "without": ours,
        }  # fmt: skip
        blocks: dict[str, list[Block]] = {name: [] for name in subjects}

        def measure(name: str) -> Callable[[], float]:
            def block() -> float:
                blocks[name].append(run_block(subjects[name]))
                return blocks[name][-1].wall_s

            return block

        alternate({name: measure(name) for name in subjects}, arguments.pairs, WARM_UP)
        if parts.comm.rank == 0:
            names = [field.name for field in dataclasses.fields(Block)]
            measured = {
                key: {name: [getattr(one, key) for one in done[WARM_UP:]] for name, done in blocks.items()}
                for key in names
            }
            (scratch / "measured.json").write_text(json.dumps(measured))

    train_with(take_turns, config, scratch / "run", first_samples)


class Watched:
    """An epoch with a sampler on each rank, and a tracker on rank zero."""

    def __init__(self, ours: Ours, device: Any, scratch: Path) -> None:
        from disttrain.config.sections import TelemetryConfig
        from disttrain.launch.env import RankEnv, resolve
        from disttrain.telemetry.trackers import RunInfo, open_trackers

        env = resolve(os.environ)
        assert isinstance(env, RankEnv)
        self.ours, self.env, self.device = ours, env, device
        config = TelemetryConfig(trackers=["tensorboard"])
        self.trackers = open_trackers(config, RunInfo(scratch, "run", "benchmark", {})) if env.is_rank_zero else None

    def __call__(self, times: list[float]) -> None:
        """Notes the time after each step."""
        from disttrain.training.machine_watch import MachineWatch

        record = self.ours.hooks.training_log._record
        store = dist.distributed_c10d._get_default_store()
        machine = MachineWatch(self.env, store, self.ours.parts.phases, self.device, EVERY_S)
        record._machine, record._trackers = machine, self.trackers
        self.ours(times)
        record._machine = record._trackers = None
        machine.close()


if __name__ == "__main__":
    main()
