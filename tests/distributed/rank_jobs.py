"""What the ranks of `pool.RankPool` do on request. Run as a script: it is one rank.

The real `run_training`, `fit` and `evaluate_model_dir` run here; around them observers note what went through.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import rank_checkpoints
import rank_parts
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

import disttrain
import disttrain.inference.evaluate_model
import disttrain.training.assemble
import disttrain.training.run
from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.rank_logging import RankLogging
from disttrain.comm.rank_session import RankSession
from disttrain.config import build_config
from disttrain.data.pipeline import EvalPipeline, GlobalBatch, MicroBatch, TrainPipeline
from disttrain.errors import PeerLostError
from disttrain.inference.evaluate_model import evaluate_model_dir
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.loop import Parts, Position
from disttrain.training.prepare import Request

TIMEOUT_S = 30.0


def save_weights(path: Path, model: nn.Module) -> None:
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}, path)


class Observer:
    """Notes what one training does on this rank."""

    def __init__(self, rank: int, folder: Path, every_step: bool) -> None:
        self.rank, self.folder, self.every_step = rank, folder, every_step
        self.steps: list[dict[str, Any]] = []
        self.reduced: list[tuple[str, int]] = []
        self.seen: dict[str, Any] = {}
        self.forwards: list[int] = []
        self._hook: RemovableHandle | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        observer = self
        real_prepare, real_train, real_all_reduce = (
            disttrain.training.run.prepare,
            disttrain.training.run.train,
            dist.all_reduce,
        )

        class Pipeline(TrainPipeline):
            """Notes the ids of every micro-batch when it is taken."""

            def epoch(self, epoch: int, first_step: int = 0) -> Iterator[GlobalBatch]:
                for batch in super().epoch(epoch, first_step):
                    note: dict[str, Any] = {"epoch": epoch, "count": batch.count, "micro": []}
                    observer.steps.append(note)
                    observer.reduced.clear()
                    observer.forwards.clear()
                    yield dataclasses.replace(batch, micro_batches=self._noted(batch, note))

            @staticmethod
            def _noted(batch: GlobalBatch, note: dict[str, Any]) -> Iterator[MicroBatch]:
                for micro in batch.micro_batches:
                    assert len(micro.inputs) == len(micro.targets) == len(micro.ids)
                    note["micro"].append({"ids": micro.ids.tolist(), "weight": micro.weight})
                    yield micro

        def prepare(*arguments: Any) -> Any:
            prepared = real_prepare(*arguments)
            save_weights(observer.folder / f"initial_{observer.rank}.safetensors", prepared.model)
            return prepared

        def train(parts: Parts, position: Position, total_steps: int, hooks: Any) -> None:
            observer.before(parts)
            real_train(parts, position, total_steps, _StepHooks(hooks, observer, parts))
            observer.after(parts)

        def all_reduce(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            observer.reduced.append((str(tensor.dtype), tensor.numel()))
            return real_all_reduce(tensor, *arguments, **options)

        with contextlib.ExitStack() as stack:
            for place, name, value in (
                (disttrain.training.assemble, "TrainPipeline", Pipeline),
                (disttrain.training.run, "prepare", prepare),
                (disttrain.training.run, "train", train),
                (dist, "all_reduce", all_reduce),
            ):
                stack.enter_context(mock.patch.object(place, name, value))
            yield

    def before(self, parts: Parts) -> None:
        self.seen["samples"] = type(parts.pipeline.samples).__name__
        inner = parts.model.module if isinstance(parts.model, DistributedDataParallel) else parts.model

        def after_forward(model: nn.Module, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> None:
            self.forwards.append(len(inputs[0]))
            self.seen["output_dtype"] = str(outputs.dtype)
            self.seen["inputs_channels_last"] = inputs[0].ndim == 4 and inputs[0].is_contiguous(
                memory_format=torch.channels_last
            )

        self.seen["compiled"] = inner._compiled_call_impl is not None
        if not self.seen["compiled"]:
            self._hook = inner.register_forward_hook(after_forward)

    def after(self, parts: Parts) -> None:
        if self._hook is not None:
            self._hook.remove()  # evaluations are not to be noted
        inner = parts.model
        if isinstance(inner, DistributedDataParallel):
            data = inner._get_ddp_logging_data()
            keys = ("comm_hook", "bucket_sizes", "rebuilt_bucket_sizes")
            self.seen["ddp"] = {key: data.get(key) for key in keys}
            inner = inner.module
        save_weights(self.folder / f"final_{self.rank}.safetensors", inner)
        optimizer = getattr(parts.optimizer, "optim", parts.optimizer)
        states = list(optimizer.state.values())
        self.seen["optimizer"] = type(parts.optimizer).__name__
        self.seen["optimizer_values"] = sum(
            value.numel() for state in states for key, value in state.items() if key != "step" and value is not None
        )
        self.seen["weights_channels_last"] = all(
            weight.is_contiguous(memory_format=torch.channels_last) for weight in inner.parameters() if weight.ndim == 4
        )
        self.seen["modules"] = sorted({type(module).__name__ for module in inner.modules()})
        self.seen["weight_dtypes"] = sorted({str(weight.dtype) for weight in inner.parameters()})

    def after_step(self, parts: Parts) -> None:
        note = self.steps[-1]
        note["lr"] = [group["lr"] for group in parts.optimizer.param_groups]
        note["scale"] = parts.precision.scaler.get_scale() if parts.precision.scaler else None
        note["reduced"] = list(self.reduced)
        note["forwards"] = list(self.forwards)
        if self.every_step:
            model = parts.model.module if isinstance(parts.model, DistributedDataParallel) else parts.model
            save_weights(self.folder / f"step_{len(self.steps)}_{self.rank}.safetensors", model)


class _StepHooks:
    """The run's own hooks, with a look at every step first."""

    def __init__(self, hooks: Any, observer: Observer, parts: Parts) -> None:
        self._hooks, self._observer, self._parts = hooks, observer, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hooks, name)

    def log(self, *arguments: Any) -> None:
        self._observer.after_step(self._parts)
        self._hooks.log(*arguments)


@contextlib.contextmanager
def joined(env: RankEnv) -> Iterator[RankSession]:
    control_plane = ControlPlane(env, TIMEOUT_S)
    logging = RankLogging(control_plane.connect(), env.rank, env.world_size, quiet=True)
    try:
        yield RankSession(env, control_plane, logging)
    finally:
        logging.close()
        control_plane.close()


def train(env: RankEnv, folder: str, sections: dict[str, Any], loss: str | None, every_step: bool) -> dict[str, Any]:
    """`run_training`, observed."""
    observer = Observer(env.rank, Path(folder), every_step)
    user_loss = getattr(rank_parts, loss) if loss else None
    request = Request(build_config(sections), Path(folder) / "run", "never", True, loss=user_loss)
    with joined(env) as session, observer.watching():
        result = disttrain.training.run.run_training(request, session)
    return {"result": result, "steps": observer.steps, **observer.seen}


def evaluate(env: RankEnv, model_dir: str, data: dict[str, Any], split: str) -> dict[str, Any]:
    """`evaluate_model_dir`, with the ids that this rank has looked at."""
    ids: list[int] = []

    class Pipeline(EvalPipeline):
        def __iter__(self) -> Iterator[MicroBatch]:
            for batch in super().__iter__():
                assert len(batch.inputs) == len(batch.ids)
                ids.extend(batch.ids.tolist())
                yield batch

    description = Path(model_dir) / "model.json"
    content = json.loads(description.read_text())
    if env.rank == 0:
        content["data"] |= data
        description.with_suffix(".tmp").write_text(json.dumps(content))
        description.with_suffix(".tmp").replace(description)
    with (
        joined(env) as session,
        mock.patch.object(disttrain.inference.evaluate_model, "EvalPipeline", Pipeline),
    ):
        session.control_plane.barrier("described")
        result = evaluate_model_dir(Path(model_dir), None, split, "cpu", True, env, session.control_plane)
    return {"result": result, "ids": ids}


@contextlib.contextmanager
def as_under_torchrun(env: RankEnv) -> Iterator[None]:
    """The variables that torchrun sets."""
    variables = {
        "RANK": env.rank,
        "LOCAL_RANK": env.local_rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": env.world_size,
        "LOCAL_WORLD_SIZE": env.local_world_size,
        "GROUP_WORLD_SIZE": 1,
        "ROLE_RANK": env.rank,
        "ROLE_WORLD_SIZE": env.world_size,
        "ROLE_NAME": "default",
        "MASTER_ADDR": env.master_addr,
        "MASTER_PORT": env.master_port,
        "TORCHELASTIC_RUN_ID": env.run_id,
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    with mock.patch.dict(os.environ, {key: str(value) for key, value in variables.items()}):
        yield


def fit(
    env: RankEnv, folder: str, noise: bool, loss: str | None, times: int, own_seeds: bool, sections: dict[str, Any]
) -> list[dict[str, Any]]:
    """`disttrain.fit`, `times` times one after the other on the same network."""
    torch.manual_seed(5 + own_seeds * env.rank)
    model = rank_parts.PointNet()
    results = []
    user_loss = getattr(rank_parts, loss) if loss else None
    with as_under_torchrun(env):
        for _ in range(times):
            results.append(
                disttrain.fit(
                    model,
                    rank_parts.Points(101, noise),
                    test_dataset=rank_parts.Points(31),
                    loss=user_loss,
                    run_dir=Path(folder) / "run",
                    quiet=True,
                    **sections,
                )
            )
    save_weights(Path(folder) / f"final_{env.rank}.safetensors", model)
    return results


def control_planes(env: RankEnv) -> list[str]:
    """Two control planes one after the other. On each all ranks meet, then rank zero waits in vain for the rest."""
    heard = []
    for name in ("first", "second"):
        control_plane = ControlPlane(env, TIMEOUT_S)
        control_plane.barrier("begin", wait=timedelta(seconds=TIMEOUT_S))
        heard.append(control_plane.broadcast("name", name))
        try:
            if env.is_rank_zero:
                control_plane.barrier("alone", wait=timedelta(seconds=0.2))
        except PeerLostError as error:
            heard.append(str(error))
        control_plane.barrier("end", wait=timedelta(seconds=TIMEOUT_S))
        control_plane.close()
    return heard


def warn(env: RankEnv, after_s: float, apart_s: float) -> str:
    """The same warning from every rank, one rank `apart_s` after the other; what rank zero shows."""
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        with joined(env) as session:
            control_plane = session.control_plane
            control_plane.barrier("begin")
            time.sleep(after_s)
            for rank in range(env.world_size):
                if rank == env.rank:
                    log.warning("everybody says this")
                time.sleep(apart_s)
            control_plane.barrier("end")
        return shown.getvalue()


JOBS: dict[str, Callable[..., Any]] = {
    "train": train, "evaluate": evaluate, "fit": fit, "boards": control_planes, "warn": warn,
    "train_from": rank_checkpoints.train_from,
}  # fmt: skip


def main() -> None:
    faulthandler.enable()
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch then fills fresh memory with NaN: use of it shows
    rank = int(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever prints does not get among the replies
    for line in sys.stdin:
        job = json.loads(line)
        world_size, port = job["world_size"], job["port"]
        env = RankEnv(
            "torchrun", rank, rank, 0, world_size, world_size, "127.0.0.1", port, agent_store=True, run_id=job["run_id"]
        )
        try:
            reply = {"value": JOBS[job["job"]](env, **job["arguments"])}
        except BaseException:
            reply = {"error": traceback.format_exc()}
            if dist.is_initialized():
                dist.destroy_process_group()
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
