"""Every launcher's variables, mostly captured from the real launcher, and all that does not fit together."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import disttrain
from disttrain.errors import ConfigError
from disttrain.launch.env import NodeEnv, RankEnv, agent_environ, resolve
from disttrain.launch.env.launchers import first_host

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


# ---- nothing ----


def test_an_empty_environment_is_no_launcher() -> None:
    assert resolve({}) is None


def test_blank_rank_variables_count_as_unset() -> None:
    assert resolve({"RANK": "", "WORLD_SIZE": " ", "PATH": "/bin"}) is None


def test_a_leftover_master_address_alone_is_no_launcher() -> None:
    assert resolve({"MASTER_ADDR": "h", "MASTER_PORT": "1", "LOCAL_RANK": "0"}) is None


def test_one_process_alone_is_rank_zero_of_one() -> None:
    env = RankEnv.alone()
    assert (env.launcher, env.world_size, env.is_rank_zero, env.agent_store) == ("none", 1, True, False)


# ---- torchrun ----


@pytest.mark.parametrize("case", ["torchrun standalone", "torchrun static", "torchrun c10d, two agents on one machine"])
def test_torchrun_workers_are_ranks_whose_agent_hosts_the_store(case: str) -> None:
    for env in ranks(case):
        assert (env.launcher, env.agent_store, env.local_world_size) == ("torchrun", True, 2)
        assert env.node_rank == env.rank // 2


def test_torchrun_run_id_and_restart_count_are_handed_on() -> None:
    environ = {**CAPTURED["torchrun c10d, two agents on one machine"]["2"], "TORCHELASTIC_RESTART_COUNT": "2"}
    env = rank_env(environ)
    assert (env.run_id, env.restart_count, env.node_rank) == ("xyz", 2, 1)


def test_each_start_of_the_ranks_by_our_agent_has_a_run_id_of_its_own() -> None:
    assert rank_env({**TORCHRUN, "TORCHELASTIC_RUN_ID": "7", "DISTTRAIN_ROUND": "a1"}).run_id == "7/a1"


@pytest.mark.parametrize("outer", [SRUN, OMPI, HOROVOD, POD], ids=["srun", "mpirun", "horovodrun", "pod"])
def test_a_torchrun_worker_wins_over_the_launcher_around_its_agent(outer: dict[str, str]) -> None:
    assert resolve({**outer, **TORCHRUN}) == resolve(TORCHRUN)


def test_a_torchrun_worker_without_its_own_store_says_so() -> None:
    assert not rank_env({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False"}).agent_store


# ---- Slurm ----


@pytest.mark.parametrize(
    ("case", "local_sizes"),
    [
        ("slurm srun, 2x2", [2, 2, 2, 2]),
        ("slurm srun -N2 -n3", [2, 2, 1]),
        ("slurm srun --overlap -N1 -n1", [1]),
        ("slurm srun --overlap in --wrap", [1, 1]),
        ("slurm srun in salloc", [2, 2, 1]),
        ("slurm srun alone", [1, 1]),
        ("slurm srun in that batch script", [2, 2, 1]),
        ("slurm srun inside a step", [1, 1]),
    ],
)
def test_srun_tasks_are_ranks_that_meet_at_the_first_host_of_the_step(case: str, local_sizes: list[int]) -> None:
    found = ranks(case)
    assert [env.local_world_size for env in found] == local_sizes
    for env in found:
        assert (env.launcher, env.master_addr, env.agent_store) == ("slurm", "node1", False)
        assert 15000 <= env.master_port < 25000


@pytest.mark.parametrize(
    "case",
    [
        "slurm batch script, 2x2",
        "slurm sbatch --wrap",
        "slurm sbatch --wrap, one task",
        "slurm salloc",
        "slurm salloc with use_interactive_step",
        "slurm batch script submitted inside a step",
    ],
)
def test_what_srun_did_not_start_is_no_rank_waiting_for_peers(case: str) -> None:
    assert resolve(CAPTURED[case]["0"]) is None


def test_a_requeued_job_counts_its_restarts() -> None:
    assert [env.restart_count for env in ranks("slurm requeued")] == [1, 1]


def test_slurm_gives_each_step_and_each_neighbouring_job_its_own_port() -> None:
    keys = [(job, step) for job in range(100, 164) for step in range(3)]
    found = {rank_env({**SRUN, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).master_port for job, step in keys}
    assert len(found) == len(keys)


def test_master_address_and_port_override_what_slurm_says() -> None:
    env = rank_env({**SRUN, "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "1234"})
    assert (env.master_addr, env.master_port) == ("10.0.0.9", 1234)


def test_older_slurm_without_step_counts_falls_back_to_the_job() -> None:
    step = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST")
    assert resolve({name: value for name, value in SRUN.items() if name not in step}) == resolve(SRUN)


@pytest.mark.parametrize(
    ("hostlist", "first"),
    [
        ("n[01-03,07],gpu-a[1-2]-ib,x", "n01"),
        ("gpu-a[1-2]-ib,x", "gpu-a1-ib"),
        ("x", "x"),
        ("x,n[1-2]", "x"),
        ("n[007,9]", "n007"),
        ("r[1-2]n[04-05]-ib", "r1n04-ib"),
        ("node1.cluster.local", "node1.cluster.local"),
    ],
)
def test_the_first_host_of_a_host_list_keeps_zeros_and_suffixes(hostlist: str, first: str) -> None:
    assert first_host(hostlist) == first


@pytest.mark.parametrize("hostlist", ["", ",x", "n[1-2", "n1-2]", "n[]", "n[,3]"])
def test_a_broken_host_list_is_refused_with_the_way_out(hostlist: str) -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        first_host(hostlist)


def test_slurm_counts_that_do_not_fit_the_node_are_refused() -> None:
    refused({**SRUN, "SLURM_NODEID": "2"}, "SLURM_NODEID=2", "2(x2)")
    refused({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2x2"}, "SLURM_STEP_TASKS_PER_NODE='2x2'")


# ---- Open MPI ----


def test_mpirun_on_one_node_meets_on_this_machine_at_a_port_of_this_job() -> None:
    found = ranks("openmpi one node")
    assert {(env.launcher, env.master_addr, env.node_rank) for env in found} == {("openmpi", "127.0.0.1", 0)}
    assert 15000 <= found[0].master_port < 25000
    assert rank_env({**OMPI, "PMIX_NAMESPACE": "1949040641"}).master_port != found[0].master_port


def test_mpirun_under_slurm_wins_over_the_step_of_its_own_daemons() -> None:
    found = ranks("openmpi under slurm, 2x2", MASTER_ADDR="node1")
    assert [(env.launcher, env.node_rank, env.local_rank) for env in found] == [
        ("openmpi", 0, 0),
        ("openmpi", 0, 1),
        ("openmpi", 1, 0),
        ("openmpi", 1, 1),
    ]


@pytest.mark.parametrize("rank", ["0", "3"])
def test_mpirun_on_several_nodes_without_an_address_is_refused_with_the_option_to_add(rank: str) -> None:
    refused(CAPTURED["openmpi under slurm, 2x2"][rank], "OMPI_COMM_WORLD_SIZE=4", "mpirun -x MASTER_ADDR=node1.")


def test_mpirun_without_a_job_id_needs_a_port() -> None:
    environ = {name: value for name, value in OMPI.items() if name.startswith("OMPI_COMM_WORLD")}
    refused(environ, "MASTER_PORT is not set")
    assert rank_env({**environ, "MASTER_PORT": "4321"}).master_port == 4321


# ---- Horovod ----


def test_horovodrun_ranks_meet_beside_horovods_own_rendezvous() -> None:
    found = ranks("horovod one node")
    assert {(env.launcher, env.master_addr, env.node_rank) for env in found} == {("horovod", "127.0.0.1", 0)}
    assert found[0].master_port != int(HOROVOD["HOROVOD_GLOO_RENDEZVOUS_PORT"])


def test_no_derived_port_is_horovods_rendezvous_port() -> None:
    for port in range(15000, 25000):
        environ = {**HOROVOD, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}
        assert rank_env(environ).master_port != port


def test_a_master_port_that_horovod_listens_on_is_refused() -> None:
    taken = HOROVOD["HOROVOD_GLOO_RENDEZVOUS_PORT"]
    refused({**HOROVOD, "MASTER_PORT": taken}, f"MASTER_PORT={taken}", "HOROVOD_GLOO_RENDEZVOUS_PORT")


def test_horovods_cross_rank_is_the_node() -> None:
    spread = {"HOROVOD_SIZE": "4", "HOROVOD_RANK": "3", "HOROVOD_CROSS_RANK": "1", "MASTER_ADDR": "a"}
    assert rank_env({**HOROVOD, **spread}).node_rank == 1


# ---- PyTorchJob and TrainJob ----

STATIC_4 = ["--nnodes", "4", "--nproc-per-node", "4", "--node-rank", "2", "--master-addr", "j-master-0"]
C10D = ["--rdzv-backend", "c10d", "--rdzv-endpoint"]
ENDPOINT = "j-worker-0:23456"
ARGUMENTS = {
    ('master+workers, nprocPerNode "4"', "j-worker-1"): [*STATIC_4, "--master-port", "23456", "--max-restarts", "0"],
    ('master only, nprocPerNode "gpu"', "j-master-0"): [
        "--nnodes",
        "1",
        "--nproc-per-node",
        "gpu",
        "--node-rank",
        "0",
        "--master-addr",
        "j-master-0",
        "--master-port",
        "23456",
        "--max-restarts",
        "0",
    ],
    ("workers only, elasticPolicy min1 max3 maxRestarts3", "j-worker-1"): (
        ["--nnodes", "1:3", "--nproc-per-node", "auto", *C10D, ENDPOINT, "--max-restarts", "3"]
    ),
    ("workers only, elasticPolicy empty {} (min,max default to Worker.replicas)", "j-worker-0"): (
        ["--nnodes", "2:2", "--nproc-per-node", "auto", *C10D, ENDPOINT, "--max-restarts", "0"]
    ),
    ('workers only, elasticPolicy full (rdzvHost/Port/Id/Conf) nprocPerNode "2"', "j-worker-0"): [
        "--nnodes",
        "1:3",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "h:1234",
        "--rdzv-id",
        "id",
        "--rdzv-conf",
        "timeout=900,k=v",
        "--max-restarts",
        "3",
    ],
    ("master+workers AND elasticPolicy (both sets)", "j-master-0"): (
        ["--nnodes", "1:3", "--nproc-per-node", "2", *C10D, ENDPOINT, "--max-restarts", "0"]
    ),
    ("deprecated elasticPolicy.nProcPerNode 4", "j-worker-1"): (
        ["--nnodes", "1:2", "--nproc-per-node", "4", *C10D, ENDPOINT, "--max-restarts", "0"]
    ),
    ("elasticPolicy.standalone true", "j-worker-0"): (
        ["--standalone", "--nnodes", "1", "--nproc-per-node", "auto", "--max-restarts", "0"]
    ),
}


@pytest.mark.parametrize(("case", "pod"), ARGUMENTS, ids=[case for case, _ in ARGUMENTS])
def test_a_pod_that_needs_an_agent_gives_the_torchrun_options(case: str, pod: str) -> None:
    assert node(PODS[case][pod]).torchrun_arguments() == ARGUMENTS[case, pod]


def test_every_pytorchjob_case_is_covered_here() -> None:
    others = {'master+workers, nprocPerNode unset (defaults to "auto")', "workers only (no master), no elasticPolicy"}
    assert {case for case, _ in ARGUMENTS} | others == set(PODS)


@pytest.mark.parametrize("processes", ["auto", "1"])
def test_a_pytorchjob_with_one_process_a_pod_is_one_rank_a_pod(processes: str) -> None:
    pods = PODS['master+workers, nprocPerNode unset (defaults to "auto")']
    for rank, environ in enumerate(pods.values()):
        env = resolve({**environ, "PET_NPROC_PER_NODE": processes})
        assert env == RankEnv("pytorchjob", rank, 0, rank, 4, 1, "j-master-0", 23456, run_id="j-master-0")


def test_a_pytorchjob_without_a_meeting_place_is_refused_with_the_way_out() -> None:
    for environ in PODS["workers only (no master), no elasticPolicy"].values():
        refused(environ, "PET_NNODES=2", "MASTER_ADDR", "PET_RDZV_ENDPOINT", "Add a Master replica or an elasticPolicy")


def test_one_pod_without_a_meeting_place_needs_none() -> None:
    assert node({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "auto"}) == NodeEnv("1", "auto", standalone=True)


@pytest.mark.parametrize(("value", "standalone"), [("", True), ("1", True), ("true", True), ("0", False)])
def test_standalone_is_asked_for_by_an_empty_or_true_value(value: str, standalone: bool) -> None:
    environ = {**PODS["elasticPolicy.standalone true"]["j-worker-0"], "PET_STANDALONE": value}
    assert node(environ).standalone == standalone


def test_a_trainjob_pod_is_a_node_also_with_nproc_auto() -> None:
    environ = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "auto",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "job-node-0-0.job",
        "PET_MASTER_PORT": "29400",
    }
    assert node(environ) == NodeEnv("2", "auto", 1, "job-node-0-0.job", 29400)
    refused({**environ, "PET_NODE_RANK": ""}, "PET_NODE_RANK", "PET_NNODES=2")
    refused({**environ, "PET_MASTER_PORT": ""}, "MASTER_PORT is not set")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"WORLD_SIZE": "8"}, ("WORLD_SIZE=8", "PET_NNODES=4", "4 here")),
        ({"PET_NPROC_PER_NODE": "2"}, ("WORLD_SIZE=4", "PET_NPROC_PER_NODE=2", "8 here")),
        ({"WORLD_SIZE": ""}, ("RANK=1", "WORLD_SIZE is not")),
        ({"RANK": ""}, ("WORLD_SIZE=4", "RANK is not")),
        ({"RANK": "2"}, ("PET_NODE_RANK=1", "RANK=2")),
        ({"RANK": "4", "PET_NODE_RANK": "4"}, ("PET_NODE_RANK=4", "PET_NNODES=4")),
        ({"PET_MASTER_ADDR": "other"}, ("PET_MASTER_ADDR=other", "MASTER_ADDR=j-master-0")),
        ({"MASTER_ADDR": "localhost", "PET_MASTER_ADDR": "localhost"}, ("MASTER_ADDR=localhost", "WORLD_SIZE=4")),
        ({"PET_NNODES": "1:4"}, ("PET_NNODES=1:4", "PET_RDZV_ENDPOINT", "elasticPolicy")),
        ({"PET_NNODES": "3:1"}, ("PET_NNODES='3:1'",)),
        ({"PET_NNODES": "0"}, ("PET_NNODES='0'",)),
        ({"PET_NPROC_PER_NODE": "all"}, ("PET_NPROC_PER_NODE='all'", "auto, gpu, cpu")),
        ({"PET_STANDALONE": ""}, ("PET_STANDALONE", "PET_NNODES=4")),
        ({"PET_MAX_RESTARTS": "many"}, ("PET_MAX_RESTARTS is 'many'",)),
        ({"PET_MASTER_PORT": "99999"}, ("PET_MASTER_PORT='99999'", "65535")),
    ],
)
def test_a_pod_whose_variables_disagree_is_refused(change: dict[str, str], parts: tuple[str, ...]) -> None:
    refused({**POD, **change}, *parts)


def test_the_agents_environment_has_no_pet_variables() -> None:
    assert agent_environ({"PET_STANDALONE": "", "PET_NNODES": "1", "PATH": "/bin"}) == {"PATH": "/bin"}


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


# ---- the only reader ----

RANK_NAME = re.compile(
    r"(RANK|LOCAL_RANK|GROUP_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|TORCHELASTIC_\w+|PET_\w+|OMPI_\w+|PMIX?_\w+|"
    r"SLURM_(PROCID|LOCALID|NODEID|NTASKS|STEP_\w+)|HOROVOD_(LOCAL_|CROSS_)?(RANK|SIZE))"
)


def rank_variable_reads(source: str) -> list[str]:
    """Rank variables that the source looks up: X["RANK"], X.get("RANK"), getenv("RANK"), "RANK" in X."""
    found: list[Any] = []
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Load):
            found.append(part.slice)
        elif isinstance(part, ast.Call) and part.args:
            name = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
            found += [part.args[0]] if name in ("get", "getenv", "pop") else []
        elif isinstance(part, ast.Compare):
            found.append(part.left)
    values = [part.value for part in found if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return [value for value in values if RANK_NAME.fullmatch(value)]


def test_the_search_for_rank_variables_finds_each_way_of_reading() -> None:
    source = 'os.environ["RANK"]; os.environ.get("LOCAL_RANK"); getenv("SLURM_PROCID"); "PET_NNODES" in e; e["A"]'
    assert sorted(rank_variable_reads(source)) == ["LOCAL_RANK", "PET_NNODES", "RANK", "SLURM_PROCID"]


def test_no_other_module_reads_rank_variables() -> None:
    root = Path(disttrain.__file__).parent
    for path in root.rglob("*.py"):
        if path.relative_to(root).parts[:2] != ("launch", "env"):
            assert not rank_variable_reads(path.read_text(encoding="utf-8")), path
