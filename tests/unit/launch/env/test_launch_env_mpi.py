"""Ranks of MPICH's mpirun, and of Open MPI 5, from the variables of real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from disttrain.errors import ConfigError
from disttrain.launch.env import RankEnv, resolve

CAPTURED: dict[str, dict[str, dict[str, str]]] = json.loads(
    (Path(__file__).parent / "data" / "captured_mpi.json").read_text()
)["cases"]
MPICH = CAPTURED["mpich one node"]
# Rank 3 of two nodes with two each, as it would be there.
FAR = {**MPICH["1"], "PMI_RANK": "3", "PMI_SIZE": "4"}
MEETING = {"MASTER_ADDR": "node0", "MASTER_PORT": "15001"}
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_JOB_NODELIST": "node[0-1]",
}


def rank_env(environ: dict[str, str]) -> RankEnv:
    found = resolve(environ)
    assert isinstance(found, RankEnv)
    return found


def test_ranks_of_mpich_on_one_node_meet_there_at_the_given_port() -> None:
    found = [rank_env({**environ, "MASTER_PORT": "15001"}) for environ in MPICH.values()]
    assert [(env.launcher, env.rank, env.local_rank, env.node_rank) for env in found] == [
        ("mpich", 0, 0, 0),
        ("mpich", 1, 1, 0),
    ]
    assert {(env.world_size, env.local_world_size, env.master_addr, env.master_port, env.run_id) for env in found} == {
        (2, 2, "127.0.0.1", 15001, "127.0.0.1:15001")
    }


def test_ranks_of_mpich_on_two_nodes_meet_at_the_given_address() -> None:
    env = rank_env({**FAR, **MEETING})
    assert (env.rank, env.local_rank, env.node_rank, env.local_world_size, env.master_addr) == (3, 1, 1, 2, "node0")


def test_one_rank_of_mpich_needs_no_port() -> None:
    env = rank_env({**MPICH["0"], "PMI_SIZE": "1", "MPI_LOCALNRANKS": "1"})
    assert (env.world_size, env.master_port) == (1, 0)


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        (MPICH["0"], ("PMI_SIZE=2", "MASTER_PORT is not set", "launchers/mpirun.sh")),
        ({**FAR, "MASTER_PORT": "15001"}, ("PMI_SIZE=4", "MASTER_ADDR is not set", "-genv MASTER_ADDR")),
        ({**FAR, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, ("MASTER_ADDR=localhost", "MPI_LOCALNRANKS=2 of")),
        ({**FAR, **MEETING, "PMI_RANK": "4"}, ("PMI_RANK=4", "ranks go from 0 to 3")),
        ({**FAR, **MEETING, "RANK": "2"}, ("RANK=2", "the mpich variables say 3", "two launchers disagree")),
        ({**FAR, **MEETING, "PET_NNODES": "2"}, ("PET_*", "mpich")),
        (
            {**FAR, **MEETING, **STEP, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
            ("SLURM_STEP_ID=0 has 2 tasks", "mpich"),
        ),
    ],
    ids=["no port", "no address", "localhost", "rank too high", "other launcher", "pod", "called by each task"],
)
def test_variables_that_do_not_fit_together_are_refused(environ: dict[str, str], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(environ)
    for part in parts:
        assert part in str(error.value)


def test_mpich_wins_over_the_step_of_its_own_daemons() -> None:
    assert rank_env({**FAR, **MEETING, **STEP}) == rank_env({**FAR, **MEETING})


def test_srun_that_speaks_pmi_is_still_srun() -> None:
    assert rank_env({**STEP, "PMI_RANK": "1", "PMI_SIZE": "2"}).launcher == "slurm"


def test_ranks_of_open_mpi_5_derive_the_same_port_from_their_job() -> None:
    found = [rank_env(environ) for environ in CAPTURED["openmpi 5 one node"].values()]
    assert [(env.launcher, env.rank, env.local_rank) for env in found] == [("openmpi", 0, 0), ("openmpi", 1, 1)]
    assert len({(env.master_port, env.run_id, env.master_addr) for env in found}) == 1
