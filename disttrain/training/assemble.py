"""A prepared rank -> the parts that the loop drives, placed on the device and wrapped for the backend."""

from __future__ import annotations

import sys

import torch
from torch import nn

from disttrain.comm.base import Comm
from disttrain.config import Config
from disttrain.data.pipeline import TrainPipeline
from disttrain.launch.env import RankEnv
from disttrain.loop import Parts
from disttrain.models.batchnorm import synchronise_batchnorm
from disttrain.optim.ema import WeightAverage
from disttrain.optim.loss import build_loss
from disttrain.optim.optimizer import build_optimizer, build_schedule
from disttrain.optim.precision import Precision
from disttrain.optim.step_undo import StepUndo
from disttrain.run_dir import DIGESTS, NONFINITE
from disttrain.telemetry.phases import PhaseTimer
from disttrain.training.digests import RecordedDigests, StepDigests, environment
from disttrain.training.nonfinite import NonFinitePolicy
from disttrain.training.prepare import Prepared, Request

_MOST_NAMED_CLASSES = 10


def total_steps_of(config: Config, prepared: Prepared) -> int:
    """Optimizer steps of the whole run."""
    return min(config.train.epochs * prepared.plan.steps_per_epoch, config.train.max_steps or sys.maxsize)


def build_parts(
    request: Request, prepared: Prepared, comm: Comm, phases: PhaseTimer, model: nn.Module
) -> tuple[Parts, NonFinitePolicy]:
    """The parts, and among them the non-finite policy, which needs to be told how to roll back."""
    config, plan, ids = request.config, prepared.plan, prepared.dataset.splits["train"]
    seed = config.train.seed
    wrapped = comm.wrap(model)  # from here on all ranks have rank zero's weights
    precision = Precision(config.train.precision, comm.device)
    pipeline = TrainPipeline(prepared.samples, ids, plan, comm.rank, seed, config.model.sync_batchnorm)
    loss = build_loss(config.train.label_smoothing, request.loss, prepared.loss.scalar_is_sum)
    on_nonfinite = NonFinitePolicy(config.train, request.run_dir / NONFINITE, comm, model, pipeline, precision, loss)
    parts = Parts(
        model=wrapped,
        optimizer=build_optimizer(config.optim, model),
        schedule=build_schedule(config.optim, plan.global_batch_size, total_steps_of(config, prepared)),
        precision=precision,
        comm=comm,
        pipeline=pipeline,
        loss=loss,
        ema=WeightAverage(model, config.train.ema_decay) if config.train.ema_decay else None,
        clip_norm=config.optim.clip_norm,
        seed=seed,
        phases=phases,
        on_nonfinite=on_nonfinite,
        undo=StepUndo(model, comm if config.comm.compression == "powersgd" else None),
        scores_classes=prepared.loss.scores_classes,
        digests=_build_digests(request, comm, model),
    )
    return parts, on_nonfinite


def _build_digests(request: Request, comm: Comm, model: nn.Module) -> StepDigests | None:
    """Rank zero records; every rank compares what it has itself."""
    config, other = request.config, request.verify_against
    record = request.run_dir / DIGESTS if config.train.record_digests and comm.rank == 0 else None
    if record is None and other is None:
        return None
    recorded = RecordedDigests.load(other) if other is not None else None
    return StepDigests(model, environment(config, comm.device, comm.world_size), record, recorded)


def place_model(config: Config, model: nn.Module, comm: Comm) -> nn.Module:
    """The network on its device, in the form that the config asks for."""
    if config.model.sync_batchnorm:
        model = synchronise_batchnorm(model, comm.device)
    model = model.to(comm.device)
    if config.model.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.model.compile:
        model.compile()  # in place: the names of the weights stay
    return model


def backward_once(parts: Parts) -> None:
    """A backward pass on some samples, for `Comm.fix_reduction_order`."""
    pipeline = parts.pipeline
    inputs, targets = next(pipeline.samples.batches([pipeline.ids[: pipeline.plan.micro_batch_size]], None))
    with parts.precision.autocast():
        loss = parts.loss(parts.model(inputs), targets)
    loss.backward()


def describe(config: Config, prepared: Prepared, env: RankEnv, model: nn.Module, device: torch.device) -> str:
    """What is trained, on what: the first lines of the log."""
    splits, plan = prepared.dataset.splits, prepared.plan
    weights = sum(parameter.numel() for parameter in model.parameters())
    held_out = ", ".join(f"{len(splits[name]):,} {name}" for name in ("val", "test"))
    launched = f", launched by {env.launcher}" if env.launcher != "none" else ""
    return (
        f"{prepared.spec.model or type(model).__name__} ({weights:,} weights) on {env.world_size} x {device.type}, "
        f"{config.train.precision}{launched}\n{_describe_data(config, prepared)}\n{plan.render()}; "
        f"{held_out} samples held out; {total_steps_of(config, prepared):,} steps in all"
    )


def _describe_data(config: Config, prepared: Prepared) -> str:
    dataset, shape = prepared.dataset, prepared.spec.input_shape
    names = dataset.class_names
    place = f" at {config.data.path}" if config.data.path is not None else ""
    classes = f"{len(names)} classes" + (f" ({', '.join(names)})" if len(names) <= _MOST_NAMED_CLASSES else "")
    of_shape = f", each {' x '.join(map(str, shape))}" if shape else ""
    count = sum(map(len, dataset.splits.values()))
    return f"data: {config.data.name}{place}: {count:,} samples{of_shape}{', ' + classes if names else ''}"
