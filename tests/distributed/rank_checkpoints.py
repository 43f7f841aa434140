"""What ranks do in the tests of checkpoints: train on from one, and say what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from disttrain.checkpoint import sharding
from disttrain.comm.rank_session import rank_session
from disttrain.config import build_config
from disttrain.launch.env import RankEnv
from disttrain.training.prepare import Request
from disttrain.training.run import run_training


def train_from(env: RankEnv, run_dir: str, sections: dict[str, Any], resume: str, share_bytes: int) -> str:
    """`run_training` with shards of at least so many bytes; the sha256 of its final weights."""
    request = Request(build_config(sections), Path(run_dir), resume, quiet=True)
    smaller = mock.patch.object(sharding, "MIN_SHARD_BYTES", share_bytes)
    with smaller, rank_session(env, 30.0, quiet=True) as session:
        return str(run_training(request, session)["weights_sha256"])
