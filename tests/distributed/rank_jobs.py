"""What the ranks of `pool.RankPool` do on request. Run as a script: it is one rank.

The real `run_training`, `fit` and `evaluate_model_dir` run here; around them observers note what went through.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.distributed as dist

import disttrain
import disttrain.inference.evaluate_model
import disttrain.training.assemble
import disttrain.training.run
from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.rank_logging import RankLogging
from disttrain.comm.rank_session import RankSession
from disttrain.config import build_config
from disttrain.data.pipeline import EvalPipeline, MicroBatch
from disttrain.errors import PeerLostError
from disttrain.inference.evaluate_model import evaluate_model_dir
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.training.prepare import Request

if TYPE_CHECKING:  # as the tests import them
    from . import rank_checkpoints, rank_parts, rank_verify
    from .rank_observer import Observer, save_weights
else:  # as a script finds what lies beside it
    import rank_checkpoints
    import rank_parts
    import rank_verify
    from rank_observer import Observer, save_weights

TIMEOUT_S = 30.0


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
    "train_from": rank_checkpoints.train_from, "verify": rank_verify.verify,
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
