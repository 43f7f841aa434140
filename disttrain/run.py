"""Config -> parts -> `train`: the only place where the parts are put together."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disttrain.checkpoint import Snapshot, find_checkpoint, load_checkpoint
from disttrain.comm.board import Board
from disttrain.comm.ddp import DdpComm
from disttrain.config import Config
from disttrain.data.pipeline import EvalPipeline, TrainPipeline
from disttrain.device import pick_device
from disttrain.ema import WeightAverage
from disttrain.errors import Preempted
from disttrain.evaluate import Evaluation, evaluate
from disttrain.hooks import RunHooks
from disttrain.launch_env import RankEnv
from disttrain.logs import RankLogging, log
from disttrain.loop import Parts, Position, train
from disttrain.loss import build_loss
from disttrain.manifest import record_start
from disttrain.models.batchnorm import synchronise_batchnorm
from disttrain.models.directory import save_model_dir, weights_sha256
from disttrain.optim import build_optimizer, build_schedule
from disttrain.precision import Precision
from disttrain.preemption import StopRequest
from disttrain.prepare import Prepared, Request, prepare
from disttrain.rundir import CHECKPOINTS, LOGS, MODEL, RESULT, claim_run_dir, load_result, write_json
from disttrain.state import capture, restore


def run_training(request: Request, env: RankEnv, board: Board, logging: RankLogging) -> dict[str, Any]:
    """Train on this rank, together with the others; every rank returns the content of `result.json`."""
    config, run_dir = request.config, request.run_dir
    device = board.together("device", lambda: pick_device(config.train.device, env))
    prepared = board.together("prepare", lambda: prepare(request, env, device), first=env.local_rank == 0)
    finished = board.together("look", lambda: load_result(run_dir) if request.resume != "never" else None)
    if finished is not None:
        log.info("%s has finished already; --resume never trains it anew.", run_dir)
        return finished
    snapshot = _agreed_snapshot(request, env, board)
    board.together("claim", lambda: claim_run_dir(run_dir, config, request.resume) if env.is_rank_zero else None)
    logging.open_file(run_dir / LOGS / f"rank_{env.rank}.log")
    stop_request = StopRequest()
    comm = DdpComm(config.comm, board.store, env.rank, env.world_size, device)
    try:
        with stop_request.listening():
            return _train(request, env, prepared, comm, snapshot, stop_request)
    finally:
        comm.close()


def _agreed_snapshot(request: Request, env: RankEnv, board: Board) -> Snapshot | None:
    """What to go on from: rank zero looks for the newest whole checkpoint, and all take the same."""

    def find() -> Path | None:
        if request.resume not in ("auto", "never"):
            return Path(request.resume)
        if request.resume == "never" or not env.is_rank_zero:
            return None
        return find_checkpoint(request.run_dir / CHECKPOINTS)

    found = board.together("find", find)
    name = board.from_rank_zero("checkpoint", str(found) if found else None)
    return board.together("load", lambda: load_checkpoint(Path(name)) if name else None)


def _train(
    request: Request,
    env: RankEnv,
    prepared: Prepared,
    comm: DdpComm,
    snapshot: Snapshot | None,
    stop_request: StopRequest,
) -> dict[str, Any]:
    config, plan, splits = request.config, prepared.plan, prepared.dataset.splits
    model = _place_model(config, prepared.model, comm)
    total_steps = min(config.train.epochs * plan.steps_per_epoch, config.train.max_steps or sys.maxsize)
    parts = _build_parts(request, prepared, comm, model, total_steps)
    average = parts.average

    def final_weights() -> contextlib.AbstractContextManager[None]:
        return average.applied() if average else contextlib.nullcontext()

    def evaluate_split(split: str) -> Evaluation:
        batch_size = config.batch.eval_batch_size
        batches = EvalPipeline(prepared.samples, splits[split], batch_size, env.rank, env.world_size)
        loss = build_loss(user_loss=request.loss)
        comm.share_buffers(model)
        with final_weights():
            return evaluate(model, batches, loss, comm, prepared.dataset.class_names, prepared.symmetries)

    log.info("%s", _describe(config, prepared, env, model, comm.device))
    comm.settle(parts.model, lambda: _backward_once(parts))
    position = Position()
    if snapshot is not None:
        restore(parts, model, position, snapshot)
        log.info("goes on from step %d of %d", position.step, total_steps)
    first_step = position.step
    starts = record_start(request.run_dir, prepared, env, comm.device, first_step) if env.is_rank_zero else []
    hooks = RunHooks(
        config,
        request.run_dir,
        position,
        comm,
        parts.schedule,
        total_steps,
        request.quiet,
        evaluate_val=(lambda: evaluate_split("val")) if len(splits["val"]) else None,
        capture_state=lambda: capture(parts, model, position),
        stop_request=stop_request,
    )
    state = "failed"
    try:
        began = time.monotonic()
        train(parts, position, total_steps, hooks)
        wall_s = time.monotonic() - began
        if position.step < total_steps:
            state = "stopped"
            raise Preempted(
                f"asked to stop: the checkpoint of step {position.step} of {total_steps} is saved. Run the same "
                "command again to go on."
            )
        test = evaluate_split("test") if len(splits["test"]) else None
        trained = plan.samples_before(position.step) - plan.samples_before(first_step)
        with final_weights():
            result = {
                "status": "finished",
                "step": position.step,
                "epoch": position.epoch,
                "test": test.as_json() if test else None,
                "weights_sha256": weights_sha256(model.state_dict()),
                "wall_s": round(wall_s, 3),
                "samples_per_second": round(trained / wall_s, 1),
                "world_size": env.world_size,
                "restarts": max(0, len(starts) - 1),
            }
            if env.is_rank_zero:
                save_model_dir(request.run_dir / MODEL, model, prepared.spec)
                write_json(request.run_dir / RESULT, result)
        state = "finished"
    finally:
        hooks.close(state, position)
    comm.barrier()
    return result


def _build_parts(request: Request, prepared: Prepared, comm: DdpComm, model: nn.Module, total_steps: int) -> Parts:
    config, plan, ids = request.config, prepared.plan, prepared.dataset.splits["train"]
    seed = config.train.seed
    wrapped = comm.wrap(model)  # from here on all ranks have rank zero's weights
    return Parts(
        model=wrapped,
        optimizer=build_optimizer(config.optim, model),
        schedule=build_schedule(config.optim, plan.global_batch_size, total_steps),
        precision=Precision(config.train.precision, comm.device),
        comm=comm,
        pipeline=TrainPipeline(prepared.samples, ids, plan, comm.rank, seed, config.model.sync_batchnorm),
        loss=build_loss(config.train.label_smoothing, request.loss),
        average=WeightAverage(model, config.train.ema_decay) if config.train.ema_decay else None,
        clip_norm=config.optim.clip_norm,
        log_every_steps=config.train.log_every_steps,
        seed=seed,
    )


def _place_model(config: Config, model: nn.Module, comm: DdpComm) -> nn.Module:
    """The network on its device, in the form that the config asks for."""
    if config.model.sync_batchnorm:
        model = synchronise_batchnorm(model, comm.device)
    model = model.to(comm.device)
    if config.model.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.model.compile:
        model.compile()  # in place: the names of the weights stay
    return model


def _backward_once(parts: Parts) -> None:
    pipeline = parts.pipeline
    inputs, targets = next(pipeline.samples.batches([pipeline.ids[: pipeline.plan.micro_batch_size]], None))
    with parts.precision.autocast():
        loss = parts.loss(parts.model(inputs), targets)
    loss.backward()


def _describe(config: Config, prepared: Prepared, env: RankEnv, model: nn.Module, device: torch.device) -> str:
    splits, plan = prepared.dataset.splits, prepared.plan
    weights = sum(parameter.numel() for parameter in model.parameters())
    held_out = ", ".join(f"{len(splits[name]):,} {name}" for name in ("val", "test"))
    return (
        f"{prepared.spec.model or type(model).__name__} ({weights:,} weights) on {env.world_size} x {device.type}, "
        f"{config.train.precision}, launched by {env.launcher}\n{plan.render()}; {held_out} samples held out"
    )
