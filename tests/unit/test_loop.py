"""One optimizer step: the gradient is that of the whole global batch, however it is cut."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from disttrain.data.batch_plan import BatchPlan
from disttrain.data.pipeline import InMemorySamples, MicroBatch, TrainPipeline
from disttrain.loop import Parts, Position, train, train_step
from disttrain.optim.loss import build_loss
from disttrain.optim.precision import Precision
from disttrain.optim.step_undo import StepUndo
from disttrain.telemetry.phases import PhaseTimer
from disttrain.telemetry.tally import Tally

from .helpers import not_none

CPU = torch.device("cpu")
COUNT = 53
INPUTS = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(COUNT) % 3


class OneRank:
    """A rank whose gradients are gathered by the test itself, so that no process group is needed."""

    device = CPU

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.grad_divisor = rank, world_size, world_size

    def scope(self, model: nn.Module, micro: MicroBatch) -> Any:
        return contextlib.nullcontext()

    def wait_grads(self) -> None: ...


class Capture(torch.optim.SGD):
    """Keeps the gradient of every step and moves no weight."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=1.0)
        self.steps: list[torch.Tensor] = []

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.steps.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) + number).view(parameter.shape))
    return net


def steps_of(parts: Parts) -> list[torch.Tensor]:
    assert isinstance(parts.optimizer, Capture)
    return parts.optimizer.steps


def unexpected(position: Position) -> None:
    raise AssertionError(f"step {position.step} was found not finite")


def parts_of(rank: int = 0, world_size: int = 1, micro: int | None = None, **fields: Any) -> Parts:
    net = network()
    plan = BatchPlan.build(COUNT, world_size, 16, micro)
    samples = InMemorySamples(INPUTS, TARGETS, None, CPU)
    pipeline = TrainPipeline(samples, np.arange(COUNT), plan, rank, 3)
    made: dict[str, Any] = {
        "model": net, "optimizer": Capture(net), "schedule": lambda step: 0.1 * (step + 1),
        "precision": Precision("fp32", CPU), "comm": OneRank(rank, world_size), "pipeline": pipeline,
        "loss": build_loss(), "ema": None, "clip_norm": None, "seed": 3, "phases": PhaseTimer(),
        "on_nonfinite": unexpected, "undo": StepUndo(net),
    }  # fmt: skip
    return Parts(**{**made, **fields})


def gradients(rank: int = 0, world_size: int = 1, micro: int | None = None) -> torch.Tensor:
    parts = parts_of(rank, world_size, micro)
    for step, batch in enumerate(parts.pipeline.epoch(0)):
        train_step(parts, batch, step, Tally(CPU))
    return torch.stack(steps_of(parts))


def reference() -> torch.Tensor:
    """The gradient of the mean loss over each global batch, computed at once."""
    made = []
    for batch in parts_of().pipeline.epoch(0):
        ids = torch.cat([micro.ids for micro in batch.micro_batches])
        net = network()
        functional.cross_entropy(net(INPUTS[ids]), TARGETS[ids]).backward()
        made.append(torch.cat([not_none(parameter.grad).flatten() for parameter in net.parameters()]))
    return torch.stack(made)


@pytest.mark.parametrize("micro", [None, 1, 5, 16])
def test_the_gradient_does_not_depend_on_the_micro_batch(micro: int | None) -> None:
    assert torch.allclose(gradients(micro=micro), reference(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("world_size", "micro"), [(2, None), (3, 2), (7, 1), (16, None)])
def test_the_mean_over_ranks_is_the_gradient_of_the_global_batch(world_size: int, micro: int | None) -> None:
    ranks = torch.stack([gradients(rank, world_size, micro) for rank in range(world_size)])
    assert torch.allclose(ranks.mean(0), reference(), rtol=1e-12, atol=1e-14)


class Recorder:
    """Hooks that write down when they are called, and stop where they are told to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[tuple[str, int, int, int]] = []
        self.stop_at = stop_at

    def _note(self, what: str, position: Position) -> None:
        self.calls.append((what, position.step, position.epoch, position.step_in_epoch))

    def log(self, position: Position, tally: Tally) -> None:
        self._note("log", position)

    def evaluate(self, position: Position) -> None:
        self._note("evaluate", position)

    def save(self, position: Position, tally: Tally) -> None:
        self._note("save", position)

    def should_stop(self, position: Position) -> bool:
        return position.step == self.stop_at


def test_hooks_are_called_after_each_step_and_evaluation_after_each_epoch() -> None:
    hooks, position = Recorder(), Position()
    train(parts_of(), position, 6, hooks)
    assert position == Position(6, 1, 2)
    assert [call[1:] for call in hooks.calls if call[0] == "log"] == [
        (1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 0), (5, 1, 1), (6, 1, 2),
    ]  # fmt: skip
    assert [call[1] for call in hooks.calls if call[0] == "evaluate"] == [4]
    assert [call[1] for call in hooks.calls if call[0] == "save"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_a_run_that_is_stopped_and_goes_on_takes_the_steps_of_one_that_was_not(stop_at: int) -> None:
    whole = parts_of()
    train(whole, Position(), 9, Recorder())
    first, second, position = parts_of(), parts_of(), Position()
    train(first, position, 9, Recorder(stop_at))
    assert position.step == stop_at
    train(second, position, 9, Recorder())
    assert position.step == 9
    together = torch.stack(steps_of(first) + steps_of(second))
    assert torch.equal(together, torch.stack(steps_of(whole)))


def test_a_run_that_has_reached_its_end_takes_no_step() -> None:
    parts, hooks = parts_of(), Recorder()
    train(parts, Position(9, 2, 1), 9, hooks)
    assert hooks.calls == []
    assert steps_of(parts) == []


def test_the_rate_of_each_step_is_that_of_the_schedule() -> None:
    parts = parts_of()
    seen: list[float] = []
    parts.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    train(parts, Position(), 5, Recorder())
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_gradient_of_a_step_is_clipped_as_a_whole() -> None:
    parts = parts_of(clip_norm=0.01, micro=4)
    tally = Tally(CPU)
    train_step(parts, next(iter(parts.pipeline.epoch(0))), 0, tally)
    expected = reference()[0]
    assert tally.grad_norm is not None
    assert tally.grad_norm.item() == pytest.approx(expected.norm().item(), rel=1e-6)
    clipped = steps_of(parts)[0]
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(clipped / clipped.norm(), expected / expected.norm(), atol=1e-6)
