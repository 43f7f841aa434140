"""Plain variables, and all that does not fit together."""

from __future__ import annotations

import re

import pytest

from disttrain.errors import ConfigError
from disttrain.launch.env import RankEnv, resolve

from .cases import CAPTURED, HOROVOD, OMPI, PLAIN, PLAIN_2X2, POD, SRUN, TORCHRUN, rank_env, refused

# ---- plain variables ----


def test_plain_variables_in_full_are_taken_as_they_are() -> None:
    assert resolve(PLAIN_2X2) == RankEnv("env", 1, 1, 0, 4, 2, "h", 29500)
    assert rank_env({**PLAIN_2X2, "RANK": "3"}).node_rank == 1


def test_behind_localhost_the_local_rank_follows_from_the_rank() -> None:
    assert resolve({**PLAIN, "MASTER_ADDR": "localhost"}) == RankEnv("env", 1, 1, 0, 4, 4, "localhost", 29500)


def test_a_world_of_one_needs_no_address() -> None:
    assert resolve({"RANK": "0", "WORLD_SIZE": "1"}) == RankEnv("env", 0, 0, 0, 1, 1, "127.0.0.1", 0)


def test_one_process_per_node_needs_no_local_rank() -> None:
    assert resolve({**PLAIN, "LOCAL_WORLD_SIZE": "1"}) == RankEnv("env", 1, 0, 1, 4, 1, "h", 29500)


@pytest.mark.parametrize("more", [{}, {"LOCAL_RANK": "0"}, {"LOCAL_WORLD_SIZE": "2"}])
def test_a_local_rank_that_cannot_be_known_is_refused(more: dict[str, str]) -> None:
    refused({**PLAIN, **more}, "RANK=1", "WORLD_SIZE=4", "export LOCAL_RANK=0 LOCAL_WORLD_SIZE=1")


# ---- contradictions ----


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"RANK": "1"}, ("RANK=1", "WORLD_SIZE is not")),
        ({"WORLD_SIZE": "4"}, ("WORLD_SIZE=4", "RANK is not")),
        ({"OMPI_COMM_WORLD_RANK": "0"}, ("OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE is not")),
        ({"HOROVOD_SIZE": "2"}, ("HOROVOD_SIZE=2", "HOROVOD_RANK is not")),
        ({**PLAIN_2X2, "RANK": "4"}, ("RANK=4", "WORLD_SIZE=4", "0 to 3")),
        ({**PLAIN_2X2, "LOCAL_RANK": "2"}, ("LOCAL_RANK=2", "LOCAL_WORLD_SIZE=2", "0 to 1")),
        ({**PLAIN_2X2, "LOCAL_WORLD_SIZE": "8"}, ("LOCAL_WORLD_SIZE=8", "WORLD_SIZE=4")),
        ({**PLAIN_2X2, "WORLD_SIZE": "0"}, ("WORLD_SIZE=0", "at least one")),
        ({"RANK": "0", "WORLD_SIZE": "0"}, ("WORLD_SIZE=0", "at least one")),
        ({**PLAIN_2X2, "LOCAL_WORLD_SIZE": "0"}, ("LOCAL_WORLD_SIZE=0", "at least one")),
        ({**PLAIN_2X2, "RANK": "one"}, ("RANK is 'one'", "whole number")),
        ({**PLAIN_2X2, "WORLD_SIZE": "-4"}, ("WORLD_SIZE is '-4'", "whole number")),
        ({**PLAIN_2X2, "MASTER_ADDR": ""}, ("WORLD_SIZE=4", "MASTER_ADDR is not set")),
        ({**PLAIN_2X2, "MASTER_PORT": ""}, ("MASTER_PORT is not set",)),
        ({**PLAIN_2X2, "MASTER_PORT": "0"}, ("MASTER_PORT='0'", "65535")),
        ({**PLAIN_2X2, "MASTER_PORT": "65536"}, ("MASTER_PORT='65536'", "65535")),
        ({**PLAIN_2X2, "MASTER_ADDR": "localhost"}, ("MASTER_ADDR=localhost", "LOCAL_WORLD_SIZE=2", "WORLD_SIZE=4")),
        ({**PLAIN, "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "0"}, ("RANK=1, LOCAL_RANK=0", "127.0.0.1")),
        ({**SRUN, "MASTER_ADDR": "127.0.1.1"}, ("MASTER_ADDR=127.0.1.1", "SLURM_STEP_NUM_TASKS=4")),
        ({**SRUN, "SLURM_PROCID": "4"}, ("SLURM_PROCID=4", "SLURM_STEP_NUM_TASKS=4")),
        ({**HOROVOD, "HOROVOD_SIZE": "4"}, ("MASTER_ADDR=127.0.0.1", "HOROVOD_LOCAL_SIZE=2")),
        ({**TORCHRUN, "MASTER_ADDR": ""}, ("TORCHELASTIC_RUN_ID", "MASTER_ADDR is not")),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, ("RANK=1", "WORLD_SIZE=1")),
        ({**TORCHRUN, "GROUP_RANK": ""}, ("GROUP_RANK is not set",)),
    ],
)
def test_variables_that_contradict_each_other_are_refused(environ: dict[str, str], parts: tuple[str, ...]) -> None:
    refused(environ, *parts)


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({**OMPI, "RANK": "0", "WORLD_SIZE": "4"}, ("RANK=0", "openmpi", "two launchers disagree")),
        ({**OMPI, "WORLD_SIZE": "4"}, ("WORLD_SIZE=4", "rank 1 of 2", "two launchers disagree")),
        ({**SRUN, "LOCAL_RANK": "0"}, ("LOCAL_RANK=0", "slurm", "two launchers disagree")),
        ({**HOROVOD, **CAPTURED["openmpi one node"]["0"]}, ("OMPI_COMM_WORLD_RANK=0", "horovod")),
        ({**OMPI, **SRUN}, ("SLURM_STEP_ID=0 has 2 tasks", "openmpi")),
        ({**HOROVOD, **SRUN}, ("SLURM_STEP_ID=0 has 4 tasks", "horovod")),
        ({**SRUN, "PET_NNODES": "2"}, ("PET_*", "slurm", "torchrun")),
        ({**OMPI, **POD}, ("PET_*", "openmpi")),
    ],
)
def test_two_launchers_that_disagree_are_refused(environ: dict[str, str], parts: tuple[str, ...]) -> None:
    refused(environ, *parts)


def test_plain_variables_that_agree_with_the_launcher_change_nothing() -> None:
    same = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert resolve({**SRUN, **same}) == resolve(SRUN)


def test_every_refusal_has_its_way_out_in_the_last_sentence() -> None:
    for environ in ({"RANK": "1"}, {**PLAIN_2X2, "RANK": "4"}, {**SRUN, "RANK": "0"}, {**OMPI, **SRUN}):
        with pytest.raises(ConfigError) as error:
            resolve(environ)
        last = str(error.value).split(". ")[-1]
        assert re.match(r"(Set|Correct|Unset|Call|Export|Use)\b", last), last
