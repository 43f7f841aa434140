"""Config -> parts -> `train`: the only place where the parts are put together."""

from __future__ import annotations

import contextlib
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import disttrain
from disttrain.comm.board import Board
from disttrain.comm.ddp import DdpComm
from disttrain.config import Config
from disttrain.data.pipeline import EvalPipeline, TrainPipeline
from disttrain.device import pick_device
from disttrain.ema import WeightAverage
from disttrain.evaluate import Evaluation, evaluate
from disttrain.hooks import RunHooks
from disttrain.launch_env import RankEnv
from disttrain.logs import RankLogging, log
from disttrain.loop import Parts, Position, train
from disttrain.loss import build_loss
from disttrain.models.batchnorm import synchronise_batchnorm
from disttrain.models.directory import save_model_dir, weights_sha256
from disttrain.optim import build_optimizer, build_schedule
from disttrain.precision import Precision
from disttrain.prepare import Prepared, Request, prepare
from disttrain.rundir import LOGS, MANIFEST, MODEL, RESULT, claim_run_dir, load_result, write_json


def run_training(request: Request, env: RankEnv, board: Board, logging: RankLogging) -> dict[str, Any]:
    """Train on this rank, together with the others; every rank returns the content of `result.json`."""
    config, run_dir = request.config, request.run_dir
    device = pick_device(config.train.device, env)
    prepared = board.together("prepare", lambda: prepare(request, env, device), first=env.local_rank == 0)
    finished = board.together("look", lambda: load_result(run_dir) if request.resume != "never" else None)
    if finished is not None:
        log.info("%s has finished already; --resume never trains it anew.", run_dir)
        return finished
    board.together("claim", lambda: claim_run_dir(run_dir, config, request.resume) if env.is_rank_zero else None)
    logging.open_file(run_dir / LOGS / f"rank_{env.rank}.log")
    comm = DdpComm(config.comm, board.store, env.rank, env.world_size, device)
    try:
        return _train(request, env, prepared, comm)
    finally:
        comm.close()


def _train(request: Request, env: RankEnv, prepared: Prepared, comm: DdpComm) -> dict[str, Any]:
    config, plan, splits = request.config, prepared.plan, prepared.dataset.splits
    model = _place_model(config, prepared.model, comm)
    average = WeightAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    total_steps = min(config.train.epochs * plan.steps_per_epoch, config.train.max_steps or sys.maxsize)
    parts = Parts(
        model=comm.wrap(model),
        optimizer=build_optimizer(config.optim, model),
        schedule=build_schedule(config.optim, plan.global_batch_size, total_steps),
        precision=Precision(config.train.precision, comm.device),
        comm=comm,
        pipeline=TrainPipeline(prepared.samples, splits["train"], plan, env.rank, config.train.seed),
        loss=build_loss(config.train.label_smoothing, request.loss),
        average=average,
        clip_norm=config.optim.clip_norm,
        log_every_steps=config.train.log_every_steps,
        seed=config.train.seed,
    )

    def final_weights() -> contextlib.AbstractContextManager[None]:
        return average.applied() if average else contextlib.nullcontext()

    def evaluate_split(split: str) -> Evaluation:
        batch_size = config.batch.eval_batch_size
        batches = EvalPipeline(prepared.samples, splits[split], batch_size, env.rank, env.world_size)
        loss = build_loss(user_loss=request.loss)
        with final_weights():
            return evaluate(model, batches, loss, comm, prepared.dataset.class_names, prepared.symmetries)

    if env.is_rank_zero:
        write_json(request.run_dir / MANIFEST, _manifest(prepared, env, comm.device))
    log.info("%s", _describe(config, prepared, env, model, comm.device))
    evaluate_val = (lambda: evaluate_split("val")) if len(splits["val"]) else None
    hooks = RunHooks(config, request.run_dir, plan, comm, parts.schedule, total_steps, evaluate_val, request.quiet)
    position = Position()
    state = "failed"
    try:
        began = time.monotonic()
        train(parts, position, total_steps, hooks)
        wall_s = time.monotonic() - began
        test = evaluate_split("test") if len(splits["test"]) else None
        with final_weights():
            result = _result(model, position, test, wall_s, prepared, env)
            if env.is_rank_zero:
                save_model_dir(request.run_dir / MODEL, model, prepared.spec)
                write_json(request.run_dir / RESULT, result)
        state = "finished"
    finally:
        hooks.close(state, position)
    comm.barrier()
    return result


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


def _result(
    model: nn.Module, position: Position, test: Evaluation | None, wall_s: float, prepared: Prepared, env: RankEnv
) -> dict[str, Any]:
    plan = prepared.plan
    epochs, rest = divmod(position.step, plan.steps_per_epoch)
    sample_count = epochs * plan.sample_count + rest * plan.global_batch_size
    return {
        "status": "finished",
        "step": position.step,
        "epoch": position.epoch,
        "test": test.as_json() if test else None,
        "weights_sha256": weights_sha256(model.state_dict()),
        "wall_s": round(wall_s, 3),
        "samples_per_second": round(sample_count / wall_s, 1),
        "world_size": env.world_size,
        "restarts": env.restart_count,
    }


def _describe(config: Config, prepared: Prepared, env: RankEnv, model: nn.Module, device: torch.device) -> str:
    splits, plan = prepared.dataset.splits, prepared.plan
    weights = sum(parameter.numel() for parameter in model.parameters())
    held_out = ", ".join(f"{len(splits[name]):,} {name}" for name in ("val", "test"))
    return (
        f"{prepared.spec.model or type(model).__name__} ({weights:,} weights) on {env.world_size} x {device.type}, "
        f"{config.train.precision}, launched by {env.launcher}\n{plan.render()}; {held_out} samples held out"
    )


def _manifest(prepared: Prepared, env: RankEnv, device: torch.device) -> dict[str, Any]:
    """What a reader in a year wants to know about how the result came about."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "versions": {
            "disttrain": disttrain.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "git_commit": _git_commit(),
        "host": socket.gethostname(),
        "device": f"{device.type}: {name}",
        "launcher": env.launcher,
        "starts": [{"time": time.time(), "world_size": env.world_size, "restart_count": env.restart_count}],
        "data_fingerprint": prepared.dataset.fingerprint,
        "command": sys.argv,
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path.cwd()), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
