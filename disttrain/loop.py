"""The training loop. Everything else in disttrain exists to feed it, to watch it, or to use what it makes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from disttrain.comm.ddp import DdpComm
from disttrain.data.pipeline import GlobalBatch, TrainPipeline
from disttrain.ema import WeightAverage
from disttrain.loss import LossSum
from disttrain.metrics import Tally
from disttrain.optim import Schedule, set_lr
from disttrain.precision import Precision
from disttrain.seed import seed_step


@dataclass
class Position:
    """Where training stands: together with the weights and the optimizer, all that a resumed run needs."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0

    def advance(self, steps_per_epoch: int) -> None:
        """One step further."""
        self.step += 1
        self.epoch, self.step_in_epoch = divmod(self.step, steps_per_epoch)


@dataclass(frozen=True)
class Parts:
    """What the loop drives."""

    model: nn.Module
    """Wrapped by `comm`."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    comm: DdpComm
    pipeline: TrainPipeline
    loss: LossSum
    average: WeightAverage | None
    clip_norm: float | None
    log_every_steps: int
    seed: int


class Hooks(Protocol):
    """What happens around the steps. Each is called on every rank, with the step just finished."""

    def log(self, position: Position, tally: Tally) -> None: ...

    def evaluate(self, position: Position) -> None: ...

    def save(self, position: Position) -> None: ...

    def should_stop(self, position: Position) -> bool: ...


def train(parts: Parts, position: Position, total_steps: int, hooks: Hooks) -> None:
    """Train from `position`, which moves along, until `total_steps` or until a hook says stop."""
    steps_per_epoch = parts.pipeline.plan.steps_per_epoch
    tally = Tally(parts.comm.device)
    parts.model.train()
    while position.step < total_steps:
        for batch in parts.pipeline.epoch(position.epoch, position.step_in_epoch):
            train_step(parts, batch, position.step, tally)
            position.advance(steps_per_epoch)
            hooks.log(position, tally)
            if position.step_in_epoch == 0:
                hooks.evaluate(position)
            hooks.save(position)
            if position.step == total_steps or hooks.should_stop(position):
                return


def train_step(parts: Parts, batch: GlobalBatch, step: int, tally: Tally) -> None:
    """One optimizer step on this rank's part of a global batch."""
    comm, precision, model, optimizer = parts.comm, parts.precision, parts.model, parts.optimizer
    seed_step(parts.seed, step, comm.rank)
    set_lr(optimizer, parts.schedule(step))
    # The mean over ranks that DDP takes, times world_size / count, is the sum over samples / count of samples:
    # right also where ranks hold unequal shares.
    scale = comm.world_size / batch.count
    for micro_step, micro in enumerate(batch.micro_batches, start=1):
        is_last = micro_step == batch.micro_steps
        with contextlib.nullcontext() if is_last else comm.no_sync(model):
            with precision.autocast():
                outputs = model(micro.inputs)
                loss_sum = parts.loss(outputs, micro.targets)
            precision.backward(loss_sum * (scale * micro.weight))
        if micro.weight:
            tally.add(outputs, micro.targets, loss_sum)
    if parts.clip_norm is not None or (step + 1) % parts.log_every_steps == 0:
        tally.grad_norm = precision.clip(optimizer, model, parts.clip_norm)
    precision.step(optimizer)
    optimizer.zero_grad(set_to_none=True)
    if parts.average is not None:
        parts.average.update(step)
