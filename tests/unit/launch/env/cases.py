"""Variables of launchers, mostly captured from the real ones, and what they resolve to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from disttrain.errors import ConfigError
from disttrain.launch.env import NodeEnv, RankEnv, resolve

DATA = Path(__file__).parent / "data"
CAPTURED: dict[str, dict[str, dict[str, str]]] = json.loads((DATA / "captured.json").read_text())["cases"]
PODS: dict[str, dict[str, dict[str, str]]] = json.loads((DATA / "pytorchjob_env_cases.json").read_text())["cases"]

PLAIN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "29500"}
PLAIN_2X2 = {**PLAIN, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
OMPI = CAPTURED["openmpi one node"]["1"]
SRUN = CAPTURED["slurm srun, 2x2"]["3"]
HOROVOD = CAPTURED["horovod one node"]["1"]
TORCHRUN = CAPTURED["torchrun standalone"]["1"]
POD = PODS['master+workers, nprocPerNode unset (defaults to "auto")']["j-worker-0"]


def ranks(case: str, **more: str) -> list[RankEnv]:
    """What each rank of a captured launch resolves to, after the checks that hold for any whole launch."""
    found = [resolve({**environ, **more}) for environ in CAPTURED[case].values()]
    result = [env for env in found if isinstance(env, RankEnv)]
    assert [env.rank for env in result] == list(range(len(found)))
    assert {(env.world_size, env.master_addr, env.master_port, env.run_id) for env in result} == {
        (len(found), result[0].master_addr, result[0].master_port, result[0].run_id)
    }
    for node in {env.node_rank for env in result}:
        local = [env for env in result if env.node_rank == node]
        assert [env.local_rank for env in local] == list(range(local[0].local_world_size))
    return result


def node(environ: dict[str, str]) -> NodeEnv:
    found = resolve(environ)
    assert isinstance(found, NodeEnv)
    return found


def rank_env(environ: dict[str, str]) -> RankEnv:
    found = resolve(environ)
    assert isinstance(found, RankEnv)
    return found


def refused(environ: dict[str, str], *parts: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(environ)
    for part in parts:
        assert part in str(error.value)
