"""The training loop. Everything else in disttrain exists to feed it, to watch it, or to use what it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from disttrain.comm.base import Comm
from disttrain.data.batch_plan import BatchPlan
from disttrain.data.pipeline import GlobalBatch, TrainPipeline
from disttrain.optim.ema import WeightAverage
from disttrain.optim.loss import LossSum
from disttrain.optim.optimizer import Schedule, set_lr
from disttrain.optim.precision import Precision
from disttrain.optim.step_undo import StepUndo
from disttrain.seed import seed_step
from disttrain.telemetry.phases import PhaseTimer
from disttrain.telemetry.tally import Tally


@dataclass
class Position:
    """Where training stands: together with the weights and the optimizer, all that a resumed run needs."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0

    def move_to(self, step: int, plan: BatchPlan) -> None:
        """Behind so many steps of the run."""
        self.step = step
        self.epoch, self.step_in_epoch = plan.locate(step)


class Digests(Protocol):
    """Looks at every step's gradients and weights. Raises IntegrityError where they are not what they should be."""

    def before_update(self, step: int) -> None: ...

    def after_update(self, step: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Parts:
    """What the loop drives."""

    model: nn.Module
    """Wrapped by `comm`."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    comm: Comm
    pipeline: TrainPipeline
    loss: LossSum
    ema: WeightAverage | None
    clip_norm: float | None
    seed: int
    phases: PhaseTimer
    on_nonfinite: Callable[[Position], None]
    """Called in place of an update that would have made the weights not finite. Raises DivergedError, or returns."""
    undo: StepUndo
    scores_classes: bool = True
    """Whether the loss takes outputs as class scores; only then there is an accuracy."""
    digests: Digests | None = None


class Hooks(Protocol):
    """What happens around the steps. Each is called on every rank, with the step just finished."""

    def log(self, position: Position, tally: Tally) -> None: ...

    def evaluate(self, position: Position) -> None: ...

    def should_stop(self, position: Position) -> bool: ...

    def save(self, position: Position, tally: Tally) -> None: ...


def train(parts: Parts, position: Position, total_steps: int, hooks: Hooks) -> None:
    """Train from `position`, which moves along, until `total_steps` or until a hook says stop."""
    tally = Tally(parts.comm.device, parts.scores_classes)
    parts.model.train()
    while position.step < total_steps:
        parts.phases.enter("data", position.step)
        for batch in parts.pipeline.epoch(position.epoch, position.step_in_epoch):
            if not train_step(parts, batch, position.step, tally):
                parts.on_nonfinite(position)
            position.move_to(position.step + 1, parts.pipeline.plan)
            if parts.digests is not None:
                parts.digests.after_update(position.step)
            hooks.log(position, tally)
            if position.step_in_epoch == 0:
                hooks.evaluate(position)
            stops = hooks.should_stop(position)
            hooks.save(position, tally)
            if stops or position.step == total_steps:
                return
            parts.phases.enter("data", position.step)


def train_step(parts: Parts, batch: GlobalBatch, step: int, tally: Tally) -> bool:
    """One optimizer step on this rank's part of a global batch.

    Returns False, on every rank alike, where a loss or a gradient was not finite: then all is as before the step.
    """
    comm, precision, model, optimizer, phases = parts.comm, parts.precision, parts.model, parts.optimizer, parts.phases
    parts.undo.remember()
    set_lr(optimizer, parts.schedule(step))
    # What the backend makes of the ranks' gradients, times grad_divisor / count, is the sum over samples / count of
    # samples: right also where ranks hold unequal shares.
    scale = comm.grad_divisor / batch.count
    for micro in batch.micro_batches:
        phases.enter("forward")
        if micro.is_first:
            seed_step(parts.seed, step, micro.share)
        with comm.scope(model, micro):
            before = None if micro.weight or not len(micro.ids) else parts.undo.copy_buffers()
            with precision.autocast():
                outputs = model(micro.inputs)
                loss_sum = parts.loss(outputs, micro.targets)
            phases.enter("backward")
            nan_if_bad = loss_sum.detach() * 0  # NaN or 0; with the gradients it reaches every rank
            precision.backward(loss_sum * (nan_if_bad + scale * micro.weight))
        if micro.weight:
            tally.add(outputs, micro.targets, loss_sum)
        elif before is not None:
            parts.undo.put_back(before)
        phases.enter("data")
    comm.wait_grads()
    if parts.digests is not None:
        parts.digests.before_update(step)
    phases.enter("optimizer")
    tally.grad_norm = precision.clip(optimizer, parts.clip_norm)
    is_made = precision.step(optimizer, tally.grad_norm)
    optimizer.zero_grad(set_to_none=True)
    if not is_made:
        parts.undo.undo()
        bad_losses = tally.discard()
        return precision.lower_scale(lambda: not comm.all_reduce(bad_losses).any())
    tally.commit()
    if parts.ema is not None:
        parts.ema.update(step)
    return True
