"""The variables of a PyTorchJob's or TrainJob's pods."""

from __future__ import annotations

import pytest

from disttrain.launch.env import NodeEnv, RankEnv, agent_environ, resolve

from .cases import POD, PODS, node, refused

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
