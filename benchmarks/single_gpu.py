"""PlanesNet on one GPU: images a second of disttrain beside two loops written by hand, and accuracy in fp32 and bf16.

The first loop by hand has all samples and the same augmentation on the device, as disttrain has; the second loads
them through a DataLoader with augmentation sample by sample. All follow the same recipe (label smoothing, clipping,
averaged weights), and take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import (
    REPOSITORY,
    Spread,
    alternate,
    argument_parser,
    describe_machine,
    planes_config,
    ratios,
    render_table,
    report,
    scratch_folder,
    timed,
    train_with,
)
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

OURS, ON_DEVICE, LOADER = "disttrain", "by hand, samples on the device", "by hand, DataLoader"


def main() -> None:
    """Measure every precision and batch size, then train to the end."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each loop that are counted")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--loader-workers", type=int, default=8)
    parser.add_argument("--epochs", type=int, help="of the accuracy runs; default: as the config has it")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try this script out")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"gpu: torch {torch.__version__} sees no GPU here, so nothing was measured.")
        return
    machine = describe_machine()
    config, overrides, what = planes_config(arguments.data)
    with scratch_folder() as scratch:
        speeds = {}
        for precision in arguments.precisions:
            for size in arguments.batch_sizes:
                fields = [f"train.precision={precision}", f"batch.global_batch_size={size}", *overrides]
                folder = scratch / f"{precision}-{size}"
                speeds[f"{precision}, batch {size}"] = measure_speed(arguments, config, fields, folder)
        accuracy = {one: train_to_the_end(arguments, config, overrides, one, scratch) for one in arguments.precisions}
    summarise(arguments, speeds, accuracy, what, machine)


def summarise(
    arguments: argparse.Namespace,
    speeds: dict[str, dict[str, list[float]]],
    accuracy: dict[str, dict[str, Any]],
    what: str,
    machine: dict[str, Any],
) -> None:
    """Two tables: speed and its ratio to disttrain's, accuracy and its time."""
    ratio = {case: {name: ratios(found[OURS], found[name]) for name in found} for case, found in speeds.items()}
    rows = [
        [case, name, Spread.of(values).render(",.0f"), "1" if name == OURS else ratio[case][name].render(".2f")]
        for case, found in speeds.items()
        for name, values in found.items()
    ]
    runs = [
        [
            precision,
            f"{run['test']['accuracy']:.2%}",
            str(run["test"]["count"]),
            str(run["epoch"]),
            f"{run['wall_s']:.1f}",
        ]
        for precision, run in accuracy.items()
    ]
    text = (
        f"PlanesNet's CNN on {what}, one device, channels_last, {arguments.loader_workers} loader processes; "
        f"{arguments.rounds} epochs of each loop, in turns. Medians (least - greatest).\n\n"
        + render_table(["case", "loop", "images/s", "disttrain's speed / its speed"], rows)
        + "\n\nWhole trainings from the config file:\n\n"
        + render_table(["precision", "test accuracy", "test samples", "epochs", "seconds"], runs)
    )
    measured = {"images_per_second": speeds, "ratio": ratio, "trainings": accuracy}
    report("gpu", arguments, text, {**vars(arguments), "data": what}, measured, machine)


def measure_speed(arguments: argparse.Namespace, file: str, fields: list[str], folder: Path) -> dict[str, list[float]]:
    """Images a second of the three loops, in turns."""
    from disttrain.config import load_config
    from disttrain.loop import train

    fixed = ["train.epochs=1000000", "checkpoint.every_steps=1000000000", "train.eval_every_epochs=0"]
    config = load_config(file, [*fixed, f"train.device={arguments.device}", *fields])
    speeds: dict[str, list[float]] = {}

    def take_turns(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        plan = parts.pipeline.plan

        def ours() -> None:
            train(parts, position, position.step + plan.steps_per_epoch, hooks)

        loops: dict[str, Callable[[], None]] = {
            OURS: ours,
            ON_DEVICE: OnDevice(parts, config),
            LOADER: Loader(parts, config, arguments.loader_workers),
        }

        def measure(epoch: Callable[[], None]) -> Callable[[], float]:
            def finished_epoch() -> None:
                epoch()
                synchronise(parts.comm.device)

            def images_per_second() -> float:
                synchronise(parts.comm.device)
                return plan.sample_count / timed(finished_epoch)

            return images_per_second

        subjects = {name: measure(loop) for name, loop in loops.items()}
        speeds.update(alternate(subjects, arguments.rounds, warm_up=2))

    train_with(take_turns, config, folder)
    return speeds


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Recipe:
    """The network and one optimizer step, as one would write them for this one purpose."""

    def __init__(self, parts: Any, config: Any) -> None:
        from disttrain.models.planesnet import PlanesNetCnn

        optim, self.train = config.optim, config.train
        self.device, self.clip_norm, self.data = parts.comm.device, optim.clip_norm, config.data
        self.dtype = torch.bfloat16 if config.train.precision == "bf16" else None
        self.batch_size, self.ids = parts.pipeline.plan.global_batch_size, torch.from_numpy(parts.pipeline.ids)
        self.images, self.labels = parts.pipeline.samples.inputs, parts.pipeline.samples.targets
        transform = parts.pipeline.samples.transform
        self.mean, self.std = (torch.tensor(one).view(3, 1, 1) for one in (transform.mean, transform.std))
        torch.manual_seed(config.train.seed)
        self.network: nn.Module = PlanesNetCnn().to(self.device).to(memory_format=torch.channels_last)
        parameters = list(self.network.parameters())
        groups = [
            {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": optim.weight_decay},
            {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True)
        self.parameters: list[torch.Tensor] = [*parameters]
        self.averages = [one.detach().clone() for one in parameters]

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Forward to the averaged weights."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = self.network(images)
            loss = functional.cross_entropy(outputs, labels, label_smoothing=self.train.label_smoothing)
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.train.ema_decay:
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.parameters, 1 - self.train.ema_decay)


class OnDevice(Recipe):
    """All samples on the device, augmented there batch by batch."""

    def __init__(self, parts: Any, config: Any) -> None:
        super().__init__(parts, config)
        self.ids, self.mean, self.std = (one.to(self.device) for one in (self.ids, self.mean, self.std))

    def __call__(self) -> None:
        """One epoch."""
        order = self.ids[torch.randperm(len(self.ids), device=self.device)]
        for index in order.split(self.batch_size):
            self.step(self.augment(self.images[index]), self.labels[index])

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Flips, turns and exposure, one draw a sample."""
        data, shape = self.data, (len(images), 1, 1, 1)
        chosen = ((data.horizontal_flip, lambda x: x.flip(3)), (data.vertical_flip, lambda x: x.flip(2)))
        for wanted, move in (*chosen, (data.quarter_turns, lambda x: x.transpose(2, 3))):
            if wanted:
                images = torch.where(torch.rand(shape, device=self.device) < 0.5, move(images), images)
        normalised = (images.float() - self.mean) / self.std
        if data.contrast:
            normalised = normalised * torch.empty(shape, device=self.device).uniform_(
                1 - data.contrast, 1 + data.contrast
            )
        if data.brightness:
            normalised = normalised + torch.empty(shape, device=self.device).uniform_(-data.brightness, data.brightness)
        return normalised.contiguous(memory_format=torch.channels_last)


class Chips(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One augmented sample at a time."""

    def __init__(self, recipe: Recipe) -> None:
        self.images, self.labels = recipe.images[recipe.ids.to(recipe.device)].cpu(), recipe.labels.cpu()[recipe.ids]
        self.data, self.mean, self.std = recipe.data, recipe.mean, recipe.std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, data = self.images[index], self.data
        draws = torch.rand(5).tolist()
        if data.horizontal_flip and draws[0] < 0.5:
            image = image.flip(2)
        if data.vertical_flip and draws[1] < 0.5:
            image = image.flip(1)
        if data.quarter_turns and draws[2] < 0.5:
            image = image.transpose(1, 2)
        normalised = (image.float() - self.mean) / self.std
        gain, offset = 1 + data.contrast * (2 * draws[3] - 1), data.brightness * (2 * draws[4] - 1)
        return normalised * gain + offset, self.labels[index]


class Loader(Recipe):
    """Samples through loader processes and pinned memory."""

    def __init__(self, parts: Any, config: Any, workers: int) -> None:
        super().__init__(parts, config)
        on_gpu = self.device.type == "cuda"
        options: dict[str, Any] = {"num_workers": workers, "pin_memory": on_gpu, "persistent_workers": workers > 0}
        self.loader: DataLoader[Any] = DataLoader(Chips(self), self.batch_size, shuffle=True, **options)

    def __call__(self) -> None:
        """One epoch."""
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
            self.step(images, labels.to(self.device, non_blocking=True))


def train_to_the_end(
    arguments: argparse.Namespace, config: str, overrides: list[str], precision: str, scratch: Path
) -> dict[str, Any]:
    """`disttrain train` as a user runs it; what it prints."""
    fields = [f"train.precision={precision}", f"train.device={arguments.device}", *overrides]
    fields += [f"train.epochs={arguments.epochs}"] if arguments.epochs else []
    options = ["--run-dir", str(scratch / f"whole-{precision}"), "--quiet", "--json", "--workers", "1"]
    command = [sys.executable, "-m", "disttrain", "train", config, *options, *fields]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
