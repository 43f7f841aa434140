"""How fast one worker is by itself: what `scaling_efficiency` in `result.json` compares all of them with."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import statistics
import time
from typing import Any

import torch
from torch import nn

from disttrain.comm.control_plane import ControlPlane
from disttrain.config import Config
from disttrain.data.pipeline import MicroBatch
from disttrain.log import log
from disttrain.loop import Parts, train_step
from disttrain.optim.ema import WeightAverage
from disttrain.optim.optimizer import build_optimizer
from disttrain.optim.precision import Precision
from disttrain.optim.step_undo import StepUndo
from disttrain.seed import generators_kept
from disttrain.telemetry.phases import PhaseTimer
from disttrain.telemetry.tally import Tally

_WARM_UP_STEPS = 3


class _Alone:
    """The part of `Comm` that a step asks for, where there is nobody else."""

    grad_divisor = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def scope(self, model: nn.Module, micro: MicroBatch) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wait_grads(self) -> None:
        pass

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def measure_one_worker(config: Config, parts: Parts, model: nn.Module, control_plane: ControlPlane) -> float | None:
    """Samples/s of rank zero's share of the first steps, trained while the others wait, on a copy that is thrown away.

    Called on every rank, which all return it: the median over the steps, data included. None where the config does not
    ask for it and, with a warning, for a network that cannot be copied. `model` is the network that `parts` has
    wrapped; nothing of either changes.
    """
    if not config.telemetry.one_worker_steps:
        return None

    def measure() -> float | None:
        if parts.comm.rank:
            return None
        log.info("trains %d steps by itself, to compare with", config.telemetry.one_worker_steps)
        return _measure(config, parts, model)

    speed = control_plane.run_on_all("one worker", measure)
    told = control_plane.broadcast("one worker's speed", None if speed is None else str(speed))
    return float(told) if told else None


def _measure(config: Config, parts: Parts, model: nn.Module) -> float | None:
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        log.warning("scaling_efficiency is not measured: the network cannot be copied (%s)", error)
        return None
    if config.model.compile:
        twin.compile()
    device, steps = parts.comm.device, config.telemetry.one_worker_steps
    alone: Any = _Alone(device)
    own = dataclasses.replace(
        parts,
        model=twin,
        # One rank cannot share the optimizer's state with others.
        optimizer=build_optimizer(config.optim.model_copy(update={"zero_redundancy": False}), twin),
        precision=Precision(config.train.precision, device),
        comm=alone,
        ema=WeightAverage(twin, config.train.ema_decay) if config.train.ema_decay else None,
        phases=PhaseTimer(),
        undo=StepUndo(twin),
        digests=None,
    )
    twin.train()
    with generators_kept():
        return _samples_per_second(own, _WARM_UP_STEPS + steps)


def _samples_per_second(parts: Parts, steps: int) -> float | None:
    pipeline, device = parts.pipeline, parts.comm.device
    tally, speeds = Tally(device, parts.scores_classes), list[float]()
    began = time.perf_counter()
    for step, batch in enumerate(itertools.islice(pipeline.epoch(0), steps)):
        train_step(parts, batch, step, tally)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        trained = sum(len(part) for share in pipeline.plan.shares(step, pipeline.rank) for part in share.micro_ranges)
        if trained:
            speeds.append(trained / (now - began))
        began = now
    counted = speeds[_WARM_UP_STEPS:] or speeds[-1:]
    return statistics.median(counted) if counted else None


def scaling_figures(one_worker: float, global_count: int, world_size: int, step_ms: float) -> dict[str, float]:
    """What `result.json` says of it: the samples/s of steps of `global_count` samples in `step_ms`, by `world_size`
    times those of one worker."""
    together = 1000 * global_count / step_ms
    return {
        "one_worker_samples_per_second": round(one_worker, 1),
        "scaling_efficiency": round(together / (world_size * one_worker), 4),
    }
