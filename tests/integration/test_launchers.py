"""launchers/mpirun.sh and launchers/horovodrun.sh for real: two ranks that train, end, are killed, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disttrain.launch.mpi.horovod_build import find_horovod_build

from .commands import DISTTRAIN, ERROR, REPOSITORY, Outcome, finish, run, start

MPIRUN = REPOSITORY / "launchers/mpirun.sh"
HOROVODRUN = REPOSITORY / "launchers/horovodrun.sh"
TWO = ["-np", "2", "-H", "localhost:2"]  # also where there is one core
CONFIG = [
    str(REPOSITORY / "configs/synthetic_planes.yaml"),
    "data.kwargs={count: 400}",
    "data.shift_px=1",
    "model.kwargs={width: 8}",
    "batch.global_batch_size=33",
    "batch.micro_batch_size=6",
    "checkpoint.every_steps=4",
    "train.max_steps=40",
]

needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="mpirun is not installed (Debian: apt-get install openmpi-bin)"
)
needs_horovod = pytest.mark.skipif(
    shutil.which("horovodrun", path=str(Path(sys.executable).parent)) is None,
    reason="Horovod is not installed (launchers/install_horovod.sh)",
)


def refused(outcome: Outcome, code: int, *parts: str) -> None:
    """One message, soon, that says all the parts."""
    shown = f"exit code {outcome.code} after {outcome.wall_s:.1f} s: {outcome.err}"
    assert outcome.code == code, shown
    assert len(outcome.errors) == 1, shown
    assert outcome.report.startswith(ERROR), shown
    for part in parts:
        assert part in outcome.message, shown


def result(run_dir: Path) -> dict[str, object]:
    return dict(json.loads((run_dir / "result.json").read_text()))


def ranks_of(run_dir: Path) -> list[int]:
    """Process ids of the ranks that train into `run_dir`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:  # it has ended meanwhile
            continue
        if words[1:2] + words[3:5] == [b"-u", b"disttrain", b"train"] and str(run_dir).encode() in words:
            found.append(int(entry.name))
    return sorted(found)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[list[str]], subprocess.Popen[str]]]:
    """Starts a training into tmp_path/run and returns once it has a checkpoint."""
    running: list[subprocess.Popen[str]] = []

    def begin(command: list[str]) -> subprocess.Popen[str]:
        process = start([*command, "--run-dir", str(tmp_path / "run")], tmp_path)
        running.append(process)
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/checkpoints/latest").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"it came to no checkpoint: {process.communicate()}")
            time.sleep(0.02)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


@needs_mpirun
def test_ranks_of_mpirun_train_to_the_weights_of_ranks_of_the_agent(tmp_path: Path) -> None:
    outcome = run([str(MPIRUN), *TWO, *CONFIG, "--run-dir", "mpirun"], tmp_path)
    assert outcome.code == 0, outcome.err
    assert "on 2 x cpu" in outcome.err
    assert "launched by openmpi" in outcome.err or "launched by mpich" in outcome.err
    assert run([*DISTTRAIN, "train", *CONFIG, "--workers", "2", "--run-dir", "agent"], tmp_path).code == 0
    names = ("world_size", "step", "weights_sha256")
    assert [result(tmp_path / "mpirun")[name] for name in names] == [result(tmp_path / "agent")[name] for name in names]


@needs_mpirun
def test_a_killed_rank_of_mpirun_ends_all_with_144_and_the_same_command_resumes(
    tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    command = [str(MPIRUN), *TWO, *CONFIG, "train.max_steps=60"]
    process = started(command)
    os.kill(max(ranks_of(tmp_path / "run")), signal.SIGKILL)
    outcome = finish(process, 30)
    assert outcome.code == 144, outcome.err
    assert outcome.err.count("a rank was killed by SIGKILL. Run the same command again.") == 1
    assert ranks_of(tmp_path / "run") == []
    resumed = run([*command, "--run-dir", "run"], tmp_path)
    assert resumed.code == 0, resumed.err
    assert "goes on from step" in resumed.err


@needs_mpirun
def test_mpirun_that_is_asked_to_stop_lets_its_ranks_save_first(
    tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    process = started([str(MPIRUN), *TWO, *CONFIG, "train.max_steps=20000", "train.epochs=2000"])
    process.send_signal(signal.SIGTERM)
    outcome = finish(process, 30)
    assert outcome.code == 143, outcome.err
    assert outcome.err.count("asked to stop: the checkpoint of step") == 1
    assert ranks_of(tmp_path / "run") == []


@needs_mpirun
def test_exit_codes_of_the_ranks_go_through_mpirun(tmp_path: Path) -> None:
    missing = ["data.name=planesnet", "data.kwargs={}", "data.path=nowhere"]
    outcome = run([str(MPIRUN), *TWO, *CONFIG, *missing, "--run-dir", "run"], tmp_path)
    assert outcome.code == 3, outcome.err
    assert [line for line in outcome.errors if "data.path=nowhere does not exist" in line]


@needs_mpirun
@pytest.mark.parametrize(
    ("options", "config", "parts"),
    [
        (TWO, [*CONFIG, "optim.lr=-1"], ["optim.lr=-1"]),
        (TWO, ["missing.yaml"], ["missing.yaml"]),
        (TWO, [], ["no config file among the arguments of mpirun.sh"]),
        ([], CONFIG, ["Add -np <ranks>"]),
        (["-np", "two"], CONFIG, ["-np two"]),
        (["-np", "9", "-H", "localhost:2"], CONFIG, ["-np 9, but there are fewer slots", "OVERSUBSCRIBE"]),
        ([*TWO, "--no-such-option"], CONFIG, ["--no-such-option", "Correct its options"]),
        (TWO, [*CONFIG, "--workers", "3"], ["--workers 3", "Leave --workers out"]),
    ],
    ids=["config", "no file", "no config", "no count", "count", "slots", "option", "workers"],
)
def test_mpirun_refuses_before_ranks_are_started(
    options: list[str], config: list[str], parts: list[str], tmp_path: Path
) -> None:
    outcome = run([str(MPIRUN), *options, *config], tmp_path)
    folded = Outcome(outcome.code, outcome.out, outcome.err.replace("--oversubscribe", "OVERSUBSCRIBE"), outcome.wall_s)
    refused(folded, 2, *parts)
    assert list(tmp_path.iterdir()) == []


@needs_mpirun
def test_mpirun_with_a_host_that_is_not_there_names_it(tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh, with which mpirun reaches other hosts (Debian: apt-get install openssh-client)")
    (tmp_path / "hosts").write_text("localhost slots=1\nno-such-host.invalid slots=1\n")
    outcome = run([str(MPIRUN), "-np", "2", "--hostfile", "hosts", *CONFIG], tmp_path)
    refused(outcome, 2, "mpirun does not reach a host", "no-such-host", "Correct the host file")


def programs(folder: Path, *names: str) -> dict[str, str]:
    """A PATH on which there are only these programs."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return {"PATH": str(folder)}


def test_without_an_mpirun_the_ways_to_one_are_said(tmp_path: Path) -> None:
    outcome = run([str(MPIRUN), "-np", "2", *CONFIG], tmp_path, programs(tmp_path / "bin", "bash", "env", "dirname"))
    refused(outcome, 2, "there is no mpirun on the PATH", "openmpi-bin", "launchers/torchrun.sh")


@needs_horovod
def test_horovod_under_the_mpirun_of_another_mpi_is_refused(tmp_path: Path) -> None:
    environ = programs(tmp_path / "bin", "bash", "env", "dirname")
    other = {"Open MPI": "HYDRA build details:\n    Version: 4.0.2", "MPICH": "mpirun (Open MPI) 4.1.4"}
    built_with = find_horovod_build().mpi
    program = tmp_path / "bin/mpirun"
    program.write_text(f"#!/bin/sh\necho '{other[built_with or 'Open MPI']}'\n")  # it comes to its version only
    program.chmod(0o755)
    outcome = run([str(MPIRUN), "-np", "2", *CONFIG, "train.backend=horovod"], tmp_path, environ)
    refused(outcome, 2, "Horovod is built with" if built_with else "built without MPI", "launchers/install_horovod.sh")


@needs_horovod
@pytest.mark.parametrize(
    ("options", "config", "parts"),
    [
        (["-np", "2"], CONFIG, ["train.backend=ddp under horovodrun", "Add train.backend=horovod"]),
        (["-np", "3", "-H", "localhost:2"], [*CONFIG, "train.backend=horovod"], ["-np 3, but localhost:2 has 2 slots"]),
        (["-np", "2", "-H", "localhost"], [*CONFIG, "train.backend=horovod"], ["-H takes node1:2,node2:2"]),
        (
            ["-np", "2", "-H", "localhost:1,no-such-host.invalid:1"],
            [*CONFIG, "train.backend=horovod"],
            ["does not reach no-such-host.invalid"],
        ),
        (
            ["-np", "2", "--min-np", "1", "--host-discovery-script", "hosts.sh"],
            [*CONFIG, "train.backend=horovod"],
            ["--min-np: elastic horovodrun gives a host up", "launchers/torchrun.sh --nnodes MIN:MAX"],
        ),
    ],
    ids=["backend", "slots", "hosts", "unreachable", "elastic"],
)
def test_horovodrun_refuses_before_ranks_are_started(
    options: list[str], config: list[str], parts: list[str], tmp_path: Path
) -> None:
    refused(run([str(HOROVODRUN), *options, *config], tmp_path), 2, *parts)


@needs_horovod
@pytest.mark.parametrize("controller", ["--gloo", "--mpi"])
def test_ranks_of_horovodrun_train_and_their_exit_codes_go_through(controller: str, tmp_path: Path) -> None:
    command = [str(HOROVODRUN), controller, "-np", "2", "-H", "localhost:2", *CONFIG, "train.backend=horovod"]
    outcome = run([*command, "--run-dir", "run"], tmp_path)
    assert outcome.code == 0, outcome.err
    assert result(tmp_path / "run")["world_size"] == 2
    missing = ["data.name=planesnet", "data.kwargs={}", "data.path=nowhere"]
    outcome = run([*command, *missing, "--run-dir", "other"], tmp_path)
    assert outcome.code == 3, outcome.err
    assert "data.path=nowhere does not exist" in outcome.err


@needs_horovod
def test_a_killed_rank_of_horovodrun_is_144(
    tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    command = [str(HOROVODRUN), "-np", "2", *CONFIG, "train.backend=horovod", "train.max_steps=20000"]
    process = started([*command, "train.epochs=2000"])
    os.kill(max(ranks_of(tmp_path / "run")), signal.SIGKILL)
    outcome = finish(process, 60)
    assert outcome.code == 144, outcome.err
    assert "a rank was killed by SIGKILL. Run the same command again." in outcome.err
    assert ranks_of(tmp_path / "run") == []


TWICE = """
import sys
import torch
import disttrain

points = torch.randn(120, 2, generator=torch.Generator().manual_seed(1))
data = torch.utils.data.TensorDataset(points, (points.norm(dim=1) > 1.2).long())
for name in ("one", "two"):
    train = {"epochs": 2, "backend": sys.argv[1]}
    result = disttrain.fit(torch.nn.Linear(2, 2), data, run_dir=name, train=train, quiet=True)
    sys.stdout.write(f"finished {name} {result['world_size']}\\n")  # at once, for mpirun joins what ranks write
    sys.stdout.flush()
"""


@needs_mpirun
@pytest.mark.parametrize("backend", ["ddp", pytest.param("horovod", marks=needs_horovod)])
def test_a_program_under_mpirun_trains_twice(backend: str, tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    outcome = run(["mpirun", *as_root, *TWO, sys.executable, "twice.py", backend], tmp_path)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines.count("finished one 2") == 2
    assert lines.count("finished two 2") == 2
