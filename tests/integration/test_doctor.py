"""`disttrain doctor` on machines and jobs in which faults are really planted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos import clock

from .commands import BIN, DISTTRAIN_ANEW, REPOSITORY, Outcome, finish, run
from .two_nodes import TwoNodes, why_not

DOCTOR = [*DISTTRAIN_ANEW, "doctor"]
CONFIG = str(REPOSITORY / "configs/synthetic_planes.yaml")
needs_root = pytest.mark.skipif(why_not() != "", reason=why_not())
# These depend on how large the machine is that the tests run on, and on what else runs there.
_OF_THIS_MACHINE = (
    "shared-memory", "open-files", "memory", "ranks-per-core", "container-cores", "threads", "allreduce",
    "name-lookups",
)  # fmt: skip
JOB = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "near", "MASTER_PORT": "29500"}


def report(outcome: Outcome) -> dict[str, Any]:
    assert outcome.out.count("\n") == 1, outcome.out + outcome.err
    return dict(json.loads(outcome.out))


def wrong(outcome: Outcome) -> dict[str, str]:
    """Check -> value of what is not ok."""
    return {one["check"]: one["value"] for one in report(outcome)["findings"] if one["status"] != "ok"}


def alarms(outcome: Outcome) -> list[str]:
    return [f"{name}: {value}" for name, value in wrong(outcome).items() if name not in _OF_THIS_MACHINE]


def test_this_machine_gets_no_alarm_and_a_report_for_people(tmp_path: Path) -> None:
    outcome = run([*DOCTOR, CONFIG, "train.device=cpu", "--run-dir", "run", "--json"], tmp_path)
    assert alarms(outcome) == []
    assert report(outcome)["unfit_nodes"] == []
    assert list(tmp_path.iterdir()) == []
    shown = run([*DOCTOR, "--job"], tmp_path)
    assert (shown.code, shown.out) == (0, "")


def broken_packages(folder: Path) -> str:
    """They hide the installed ones: a torch that cannot be imported, a torchvision and a Horovod for other ones."""
    files = {
        "torch/__init__.py": "raise ImportError('libcudart.so.12: cannot open shared object file')",
        "torch/version.py": "__version__ = '2.9.0+cu128'\ncuda = '12.8'",
        "torch-2.9.0.dist-info/METADATA": "Name: torch\nVersion: 2.9.0",
        "torchvision-0.20.1.dist-info/METADATA": "Name: torchvision\nVersion: 0.20.1",
        "horovod/__init__.py": "",
        "horovod/metadata.json": '{"pytorch": "2.1.0"}',
        "horovod/torch/mpi_lib_v2.so": "x",
        "horovod-0.28.1.dist-info/METADATA": "Name: horovod\nVersion: 0.28.1",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def test_packages_that_do_not_belong_together_are_found_without_importing_them(tmp_path: Path) -> None:
    words = [
        CONFIG,
        "train.backend=horovod",
        "data.name=planesnet",
        "data.path=/no/such/chips.zip",
        "train.device=cuda",
    ]
    env = {"PYTHONPATH": broken_packages(tmp_path / "packages")}
    outcome = run([*DOCTOR, *words, "--json", "--run-dir", "run"], tmp_path, env)
    found = wrong(outcome)
    assert outcome.code == 1
    assert "libcudart.so.12: cannot open" in found["torch"]
    assert found["torchvision"] == "torchvision 0.20.1 beside torch 2.9.0+cu128"
    assert "built for torch 2.1.0, but torch 2.9.0+cu128" in found["horovod"]
    assert found["data"] == "/no/such/chips.zip: No such file or directory"
    if not Path("/dev/nvidia0").exists():
        assert found["gpus"] == "no GPU and no driver"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "0"}, "RANK=0 is set, but WORLD_SIZE is not"),
        (
            {**JOB, "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"},
            "other nodes cannot reach rank 0",
        ),
    ],
)
def test_variables_of_launchers_that_contradict_each_other_are_found(
    variables: Mapping[str, str], words: str, tmp_path: Path
) -> None:
    outcome = run([*DOCTOR, "--job", "--json"], tmp_path, dict(variables))
    assert outcome.code == 1
    assert words in wrong(outcome)["launch-variables"]
    assert outcome.err.count("disttrain: error: ") == 1


def test_variables_that_name_what_is_not_there_or_slow_a_training_down_are_found(tmp_path: Path) -> None:
    planted = {
        "OMP_NUM_THREADS": "4096", "GLOO_SOCKET_IFNAME": "eth77", "CUDA_LAUNCH_BLOCKING": "1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TMPDIR": "/no/such/folder",
    }  # fmt: skip
    outcome = run([*DOCTOR, CONFIG, "optim.lr=-1", "--job", "--json"], tmp_path, planted)
    found = wrong(outcome)
    assert outcome.code == 1
    assert "optim.lr=-1" in found["config"]
    assert "OMP_NUM_THREADS=4096 for 1 rank" in found["threads"]
    assert "GLOO_SOCKET_IFNAME=eth77, but the interfaces here are" in found["interface"]
    assert "CUDA_LAUNCH_BLOCKING=1" in found["slow-variables"]
    assert "HANDLING=0" in found["hang-variables"]
    assert found["temporary-files"] == "/no/such/folder: No such file or directory"


@needs_root
def test_a_machine_that_is_out_of_room_is_found(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    script = (
        "mount -t tmpfs -o size=8m tmpfs /dev/shm; mount -t tmpfs -o size=2m tmpfs full;"
        'dd if=/dev/zero of=full/file bs=64k 2>/dev/null || true; ulimit -n 256; exec "$@"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *DOCTOR, "--run-dir", "full/run", "--job", "--json"]
    found = wrong(run(command, tmp_path))
    assert found["shared-memory"] == "/dev/shm has 8 MiB free of 8 MiB, for 1 rank"
    assert "No space left on device" in found["run-directory"]
    assert "0 bytes free" in found["run-directory-space"]
    assert found["open-files"] == "ulimit -Hn is 256"


@needs_root
def test_a_run_directory_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "fixed").mkdir()
    script = 'mount --bind fixed fixed; mount -o remount,bind,ro fixed; exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", *DOCTOR, "--run-dir", "fixed/run", "--job", "--json"]
    assert "Read-only file system" in wrong(run(command, tmp_path))["run-directory"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the stand-in for NVML cannot be built")
def test_gpus_are_asked_through_nvml_and_what_they_do_not_tell_is_left_out(tmp_path: Path) -> None:
    source = Path(__file__).with_name("nvml.c")
    command = ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(command, check=True)
    libraries = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("LD_LIBRARY_PATH"))))
    env = {"LD_LIBRARY_PATH": libraries, "CUDA_VISIBLE_DEVICES": "0,1,5"}
    outcome = run([*DOCTOR, "--job", "--json", "--ranks-per-node", "4"], tmp_path, env)
    found = wrong(outcome)
    assert outcome.code == 1
    assert found["gpus-enough"] == "4 ranks on a node that shows 2 GPUs"
    assert found["visible-devices"] == "CUDA_VISIBLE_DEVICES=0,1,5: there is no 5"
    assert found["gpus-free"] == "GPU 1: 0 processes, 8 GiB of 16 GiB in use"
    assert found["gpu-memory-errors"] == "GPU 1: rows of its memory could not be remapped"
    assert found["gpu-clocks"] == "GPU 1 runs below its clocks: heat (hardware)"
    assert "0-1" in found["gpu-links"]
    if torch.version.cuda:
        assert found["cuda-driver"].startswith("driver 470.1 (CUDA 11.4), torch is built for CUDA ")


@pytest.mark.parametrize("launcher", ["torchrun", "mpirun", "pod"])
def test_under_a_launcher_rank_zero_reports_once_for_all_ranks(launcher: str, tmp_path: Path) -> None:
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        pytest.skip("mpirun is not installed (Debian: tests/system_packages.sh)")
    before = {
        "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "disttrain"],
        "mpirun": ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", sys.executable, "-m", "disttrain"],
        "pod": DISTTRAIN_ANEW,
    }[launcher]
    env = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2"} if launcher == "pod" else {}
    job = [] if launcher == "torchrun" else ["--job"]  # one with an allreduce
    outcome = run([*before, "doctor", CONFIG, "train.device=cpu", "--run-dir", "run", *job, "--json"], tmp_path, env)
    assert outcome.code == 0, outcome.err
    found = {one["check"]: one for one in report(outcome)["findings"]}
    assert alarms(outcome) == []
    assert report(outcome)["world_size"] == 2
    assert found["peers"]["status"] == "ok"
    assert ("allreduce" in found) is (not job)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    with TwoNodes.made(tmp_path) as two:
        yield two


def examine(
    nodes: TwoNodes, folder: Path, words: list[str], far: Mapping[str, str] | None = None, setup: str = ""
) -> tuple[Outcome, Outcome]:
    """The doctor on both nodes, with other variables on the second."""
    command = [*DOCTOR, *words, "--json"]
    second = nodes.start("far", command, folder, {**JOB, "RANK": "1", **(far or {})}, setup)
    first = nodes.start("near", command, folder, {**JOB, "RANK": "0"})
    return finish(first), finish(second)


@needs_root
def test_two_nodes_exchange_and_get_no_alarm(nodes: TwoNodes, tmp_path: Path) -> None:
    words = [CONFIG, "train.device=cpu", "--run-dir", "run"]
    first, second = examine(nodes, tmp_path, words)
    assert (first.code, second.code, second.out) == (0, 0, ""), first.out + second.err
    assert alarms(first) == []
    found = {one["check"]: one["value"] for one in report(first)["findings"]}
    assert "gloo, 2 ranks: 4 KiB in" in found["allreduce"]
    assert found["route"] == "to near by eth0"
    assert found["run-directory-shared"] == f"all nodes see {tmp_path / 'run'}"


@needs_root
@pytest.mark.skipif(clock.why_not() is not None, reason=str(clock.why_not()))
def test_what_is_wrong_with_one_node_of_two_is_found_and_the_node_named(nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/chips.zip").write_text("x")
    late = clock.Clock(tmp_path)
    late.jump(-300)
    far = {**late.variables(), "PYTHONPATH": broken_packages(tmp_path / "packages"), "NCCL_ALGO": "Ring"}
    words = [CONFIG, "data.name=planesnet", f"data.path={tmp_path}/data/chips.zip", "--run-dir", f"{tmp_path}/runs/a"]
    first, second = examine(
        nodes, tmp_path, [*words, "--job"], far, "mount -t tmpfs tmpfs runs; mount -t tmpfs tmpfs data"
    )
    found = wrong(first)
    assert (first.code, second.code) == (1, 1)
    versions = [one["value"] for one in report(first)["findings"] if one["check"] == "same-versions"]
    assert any(one.startswith("torch is 2.9.0+cu128 here, and") for one in versions)
    assert "s behind rank 0's clock" in found["clocks"]
    assert "is not the one of rank 0's host" in found["run-directory-shared"]
    assert "NCCL_ALGO is Ring on rank 1; not set on rank 0" in found["same-variables"]
    assert "No such file or directory, and other nodes have it" in found["data-everywhere"]
    assert first.err.count("disttrain: error: far is not fit to train:") == 1
    assert second.err == ""


@needs_root
def test_a_node_behind_a_firewall_and_one_that_does_not_know_the_host_are_named(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    first, second = examine(nodes, tmp_path, ["--job", "--wait", "2"], {"MASTER_ADDR": "nowhere"})
    assert (first.code, second.code) == (1, 1)
    assert "rank 1 did not reach rank 0 at near within 2 s" in wrong(first)["peers"]
    assert "rank 1 on far does not reach rank 0: the name nowhere is not known here" in second.err
    nodes.ip("far", "rule", "add", "ipproto", "tcp", "priority", "1", "blackhole")
    nodes.ip("far", "rule", "delete", "priority", "0")
    first, second = examine(nodes, tmp_path, ["--job", "--wait", "2"])
    assert (first.code, second.code) == (1, 1)
    assert "peers" in wrong(first)
    assert "near refuses or drops the ports 29500, " in second.err
