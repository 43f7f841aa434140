"""Every launcher's variables, mostly captured from the real launcher."""

from __future__ import annotations

import pytest

from disttrain.errors import ConfigError
from disttrain.launch.env import RankEnv, resolve
from disttrain.launch.env.launchers import first_host

from .cases import CAPTURED, HOROVOD, OMPI, POD, SRUN, TORCHRUN, rank_env, ranks, refused

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


def test_a_job_that_may_be_started_again_has_one_name_for_all_its_starts() -> None:
    job = {"DISTTRAIN_JOB_ID": "slurm-7", "SLURM_RESTART_COUNT": "2"}
    assert {(rank_env({**one, **job}).job_id, rank_env({**one, **job}).requeues) for one in (SRUN, OMPI)} == {
        ("slurm-7", 2)
    }
    env = rank_env({**TORCHRUN, **job, "DISTTRAIN_ROUND": "other.3"})
    assert (env.job_id, env.requeues) == ("other", 2)  # the agent's name for it, which has come from the variable
