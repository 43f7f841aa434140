"""Every rule on planted facts: a healthy job has no finding, each fault is found, named and placed."""

from __future__ import annotations

from typing import Any

import pytest

from disttrain.doctor.checks import CHECKS
from disttrain.doctor.facts.model import Facts
from disttrain.doctor.finding import judge, unfit_nodes, worst

from .planting import GIB, MIB, VERSIONS, job, plant, planted, wrong


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_healthy_job_gets_no_alarm(nodes: int, ranks: int) -> None:
    assert wrong(job(nodes, ranks)) == []


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    bare = Facts(host="laptop", versions=job(1, 1)[0].versions)
    bare = planted(bare, {"system.shm_free": GIB, "system.shm_size": GIB, "system.tmp": "/tmp"})
    assert wrong([bare]) == []


def found_(**versions: str | None) -> dict[str, Any]:
    values = {**VERSIONS, **versions}
    return {"versions.found": {name: value for name, value in values.items() if value is not None}}


EVERYWHERE, NODE2 = "*", "node2"
# check, status, host of the fault, planted facts, words of the finding
FAULTS: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("config", "fail", EVERYWHERE, {"wanted.config_error": "optim.lr=-1: too small"}, "optim.lr=-1"),
    ("launch-variables", "fail", "node1", {"launch_error": "RANK=0 is set, but WORLD_SIZE is not"}, "WORLD_SIZE"),
    ("infiniband", "warn", EVERYWHERE,
     {"network.infiniband": ["mlx5_0"], "environ.NCCL_IB_DISABLE": "1"}, "mlx5_0"),
    ("slow-variables", "warn", NODE2, {"environ.CUDA_LAUNCH_BLOCKING": "1"}, "CUDA_LAUNCH_BLOCKING=1"),
    ("hang-variables", "warn", NODE2, {"environ.TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}, "HANDLING=0"),
    ("same-variables", "fail", NODE2, {"environ.NCCL_ALGO": "Ring"}, "NCCL_ALGO is Ring on rank 2"),
    ("same-variables", "warn", NODE2, {"environ.NCCL_IB_DISABLE": "1"}, "not set on rank 0"),
    ("python", "fail", NODE2, found_(python="3.9.2"), "Python 3.9.2"),
    ("torch", "fail", NODE2, found_(torch=None), "not installed"),
    ("torch", "fail", NODE2, found_(torch="2.3.1"), "torch 2.3.1"),
    ("torch", "fail", NODE2, {"versions.torch_error": "ImportError: libcudart.so.12"}, "libcudart.so.12"),
    ("torchvision", "fail", EVERYWHERE, found_(torchvision="0.23.0"), "torchvision 0.23.0 beside torch 2.9.1"),
    ("torch-libraries", "warn", NODE2, {"versions.pins": {"nvidia-nccl-cu12": ("2.27.5", "2.19.3")}}, "2.19.3"),
    ("cuda-driver", "fail", NODE2, {"versions.driver_cuda": "11.8"}, "CUDA 11.8"),
    ("cuda-driver", "fail", EVERYWHERE, found_(cuda=None, torch="2.9.1+cpu"), "built without CUDA"),
    ("horovod", "fail", NODE2,
     {"wanted.backend": "horovod", "versions.horovod_error": "built for torch 2.8.0"}, "2.8.0"),
    ("horovod", "warn", NODE2, {"versions.horovod_error": "Horovod is built for torch 2.8.0"}, "2.8.0"),
    ("mpi", "fail", NODE2,
     {"wanted.backend": "horovod", "launcher": "openmpi", "versions.horovod_mpi": "MPICH"}, "built with MPICH"),
    ("same-versions", "fail", NODE2, found_(torch="2.10.0+cu128", torchvision="0.25.0"), "torch is 2.10.0+cu128 here"),
    ("same-versions", "fail", NODE2, found_(nccl="2.26.2"), "nccl is 2.26.2"),
    ("same-versions", "fail", NODE2, found_(ray="2.9.0"), "ray is 2.9.0"),
    ("same-versions", "warn", NODE2, found_(driver="535.1"), "driver is 535.1"),
    ("gpus", "fail", NODE2, {"gpus.all": None, "gpus.visible": None, "gpus.devices": 0}, "no GPU and no driver"),
    ("gpus", "fail", NODE2, {"gpus.error": "Driver/library version mismatch"}, "version mismatch"),
    ("gpus", "fail", EVERYWHERE, {"gpus.visible": []}, "hides all"),
    ("gpus-enough", "fail", NODE2, {"gpus.visible": ["GPU-node2-0"]}, "2 ranks on a node that shows 1 GPU"),
    ("visible-devices", "fail", NODE2, {"gpus.unknown": ["7"], "environ.CUDA_VISIBLE_DEVICES": "0,1,7"}, "no 7"),
    ("gpus-free", "warn", NODE2, {"gpus.all.1.memory_used": 70 * GIB, "gpus.all.1.processes": 1}, "GPU 1: 1 process"),
    ("gpu-memory-errors", "fail", NODE2, {"gpus.all.0.remap": "failed"}, "could not be remapped"),
    ("gpu-memory-errors", "warn", NODE2, {"gpus.all.0.uncorrected_errors": 3}, "3 uncorrected"),
    ("gpu-clocks", "warn", NODE2, {"gpus.all.0.slowed": ["heat (hardware)"]}, "heat"),
    ("gpu-links", "warn", NODE2, {"gpus.far": ["0-1"]}, "0-1"),
    ("gpus-alike", "warn", NODE2, {"gpus.all.1.name": "A100"}, "A100"),
    ("gpu-own", "fail", NODE2, {"gpus.visible": ["GPU-node2-0"], "launcher": "slurm"}, "ranks 2, 3 would all compute"),
    ("shared-memory", "fail", NODE2, {"system.shm_free": 16 * MIB, "system.shm_size": 64 * MIB}, "16 MiB free of 64"),
    ("shared-memory", "warn", NODE2, {"system.shm_free": 64 * MIB, "system.shm_size": 64 * MIB}, "for 2 ranks"),
    ("shared-memory", "fail", NODE2, {"system.shm_free": None}, "there is no /dev/shm"),
    ("open-files", "fail", NODE2, {"system.open_files": 256}, "256"),
    ("open-files", "warn", NODE2, {"system.open_files": 1024}, "1024"),
    ("locked-memory", "warn", NODE2, {"system.locked_memory": 64 << 10, "network.infiniband": ["mlx5_0"]}, "64 KiB"),
    ("thread-number", "fail", NODE2, {"environ.OMP_NUM_THREADS": "all"}, "OMP_NUM_THREADS=all"),
    ("threads", "warn", NODE2, {"environ.OMP_NUM_THREADS": "16"}, "OMP_NUM_THREADS=16 for 2 ranks on 16 cores"),
    ("container-cores", "warn", NODE2, {"system.quota": 4.0, "environ.OMP_NUM_THREADS": None}, "4 of the 16 cores"),
    ("ranks-per-core", "warn", NODE2, {"system.cpus": [3]}, "2 ranks on 1 core"),
    ("memory", "fail", NODE2, {"system.memory_available": 100 * MIB}, "100 MiB"),
    ("memory", "warn", NODE2, {"system.memory_available": GIB}, "for 2 ranks"),
    ("temporary-files", "fail", NODE2, {"system.tmp_error": "No space left on device"}, "No space left"),
    ("interface", "fail", NODE2, {"environ.GLOO_SOCKET_IFNAME": "eth7"}, "interfaces here are docker0, eth0"),
    ("interface", "fail", NODE2, {"environ.NCCL_SOCKET_IFNAME": "=ib0"}, "ib0 is down"),
    ("interface", "fail", NODE2, {"environ.NCCL_SOCKET_IFNAME": "lo"}, "loopback"),
    ("interface", "warn", NODE2, {"environ.NCCL_SOCKET_IFNAME": "docker"}, "bridge"),
    ("route", "fail", NODE2, {"network.towards": ""}, "no way to node1"),
    ("route", "warn", NODE2, {"network.towards": "docker0"}, "docker0"),
    ("host-name", "warn", NODE2, {"network.host_name_error": "node2: Name or service not known"}, "not known"),
    ("name-lookups", "warn", NODE2, {"network.lookup_s": 5.0}, "5.0 s"),
    ("master-port", "fail", "node1", {"network.port_error": "Address already in use"}, "MASTER_PORT=29500"),
    ("peers", "fail", "node1", {"job.missing": [3], "job.missing_hosts": {3: "node2"}, "job.waited_s": 30}, "on node2"),
    ("peers", "fail", "node1", {"job.lost": {2: "timed out"}}, "rank 2 was there"),
    ("ranks", "fail", "node1", {"job.twice": {1: ["node1", "node2"]}}, "2 processes are rank 1"),
    ("ranks", "fail", NODE2, {"world_size": 8}, "4 and 8"),
    ("clocks", "warn", NODE2, {"clock_offset_s": -5.0}, "5.0 s behind"),
    ("clocks", "fail", NODE2, {"clock_offset_s": 3600.0}, "3600.0 s ahead"),
    ("allreduce", "fail", "node1", {"job.allreduce_error": "rank 1: connection refused"}, "refused"),
    ("allreduce", "warn", "node1", {"job.allreduce_s": {32 * MIB: 2.0}}, "MB/s"),
    ("run-directory", "fail", NODE2, {"disk.run_dir_error": "Permission denied in /runs"}, "Permission denied"),
    ("run-directory-space", "fail", EVERYWHERE, {"disk.free": GIB}, "1 GiB free"),
    ("run-directory-space", "warn", EVERYWHERE, {"disk.free": 4 * GIB}, "checkpoint.keep=3"),
    ("run-directory-speed", "warn", NODE2, {"disk.write_speed": 1e7}, "a checkpoint of 1 GiB takes 107.4 s"),
    ("run-directory-shared", "fail", NODE2, {"disk.shared_error": "a file is not there"}, "on node2 is not the one of"),
    ("data", "fail", EVERYWHERE, {"disk.data_error": "No such file or directory"}, "No such file"),
    ("data-everywhere", "fail", NODE2, {"disk.data_error": "No such file or directory"}, "other nodes have it"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "status", "host", "values", "words"), FAULTS, ids=lambda one: str(one)[:40])
def test_a_planted_fault_is_found_with_its_remedy(
    check: str, status: str, host: str, values: dict[str, Any], words: str
) -> None:
    found = [one for one in wrong(plant(job(), host, values)) if one.check == check]
    assert [one.status for one in found if words in one.value] == [status], found
    assert all(len(one.remedy) > 10 for one in found)
    by_node = all(part.job is None for part in CHECKS if part.name == check)
    assert not by_node or host == EVERYWHERE or {node for one in found for node in one.nodes} == {host}


def test_every_check_has_a_planted_fault() -> None:
    assert {check.name for check in CHECKS} == {fault[0] for fault in FAULTS}
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_the_node_that_failed_is_unfit_but_not_where_another_node_would_fail_too() -> None:
    def unfit(everyone: list[Facts]) -> list[str]:
        findings = judge(CHECKS, everyone)
        assert worst(findings) == "fail"
        return unfit_nodes(CHECKS, findings, list(dict.fromkeys(one.host for one in everyone)))

    full = {"disk.run_dir_error": "No space left on device in /runs"}
    assert unfit(plant(job(), "node2", full)) == ["node2"]
    assert unfit(plant(job(), "*", full)) == []
    assert unfit(plant(job(1, 1), "node1", full)) == ["node1"]
    assert unfit(plant(job(), "node2", {"wanted.config_error": "optim.lr=-1"})) == []
    both = plant(plant(job(), "node2", full), "*", {"wanted.config_error": "optim.lr=-1"})
    assert unfit(both) == []


def test_the_same_finding_of_several_nodes_is_one_and_the_worst_comes_first() -> None:
    everyone = plant(plant(job(), "*", {"system.open_files": 1024}), "node2", {"system.shm_free": MIB})
    assert [(one.check, one.nodes) for one in wrong(everyone)] == [
        ("shared-memory", ("node2",)),
        ("open-files", ("node1", "node2")),
    ]
