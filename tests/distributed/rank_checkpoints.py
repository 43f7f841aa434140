"""What ranks do in the tests of checkpoints: train on from one, and say what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from disttrain.checkpoint import sharding
from disttrain.comm.rank_session import run_rank
from disttrain.config import build_config
from disttrain.launch.env import RankEnv
from disttrain.training.prepare import Request
from disttrain.training.run import run_training


def train_from(env: RankEnv, run_dir: str, sections: dict[str, Any], resume: str, share_bytes: int) -> str:
    """`run_training` with checkpoints dealt out in shares of so many bytes; the sha256 of its final weights."""
    request = Request(build_config(sections), Path(run_dir), resume, quiet=True)
    results: list[dict[str, Any]] = []
    with mock.patch.object(sharding, "MIN_SHARD_BYTES", share_bytes):
        code = run_rank(env, 30.0, True, lambda *job: results.append(run_training(request, env, *job)))
    assert code == 0, f"exit code {code}: the rank's log says why"
    return str(results[0]["weights_sha256"])
