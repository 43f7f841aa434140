"""Ranks that stop moving: the others leave within a bound, and one report names who is to blame and where it stands."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from .commands import DISTTRAIN, Commands, Ended, Running
from .pool import Measured

TIMEOUT_S = 5.0
USER_CODE = """
import os
import signal
import time

import torch

RANK = os.environ.get("RANK")


def wait_for_a_disk_that_never_answers():
    while True:
        time.sleep(3600)


class Points(torch.utils.data.Dataset):
    classes = ("inside", "outside")

    def __init__(self, blocks_on=None, dies_on=None):
        if RANK == dies_on:
            os.kill(os.getpid(), signal.SIGKILL)
        self.points = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        self.blocks_on, self.taken = blocks_on, 0

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        self.taken += 1
        if RANK == self.blocks_on and self.taken > 300:
            wait_for_a_disk_that_never_answers()
        return self.points[index], int(self.points[index].norm() > 1.2)


class StopsInASave(torch.nn.Linear):
    def __init__(self, stops_on):
        super().__init__(2, 2)
        self.stops_on = stops_on

    def state_dict(self, *args, **kwargs):
        if RANK == self.stops_on and torch.distributed.is_initialized():  # not yet when the network is looked at
            time.sleep(2.5)  # heartbeats come once a second: by now the other rank has had one
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().state_dict(*args, **kwargs)
"""
CONFIG = f"""
model: {{name: 'torch.nn:Linear', kwargs: {{in_features: 2, out_features: 2}}}}
data: {{name: 'user_code:Points', placement: stream, loader_workers: 0}}
batch: {{global_batch_size: 20}}
train: {{epochs: 1000000, log_every_steps: 10}}
comm: {{timeout_s: {TIMEOUT_S}}}
"""


def command(commands: Commands, *options: str) -> list[str | Path]:
    commands.write("user_code.py", USER_CODE)
    config = commands.write("config.yaml", CONFIG)
    return [*DISTTRAIN, "train", config, "--run-dir", "run", "--quiet", *options]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_by_hand(commands: Commands, *options: str, world_size: int = 2) -> list[Running]:
    """Ranks without an agent: rank zero hosts the store."""
    port = str(free_port())
    variables = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "MASTER_PORT": port}
    variables |= {"MASTER_ADDR": "127.0.0.1"}
    argv = command(commands, *options)
    return [commands.start(argv, RANK=str(k), LOCAL_RANK=str(k), **variables) for k in range(world_size)]


def until_it_trains(commands: Commands, running: Running) -> None:
    status = commands.folder / "run" / "status.json"
    running.poll(lambda: status.exists() and json.loads(status.read_text())["step"] > 20, "a few steps")
    time.sleep(2.5)  # heartbeats come once a second: by now those from before the first step are out of date


def rank_log(commands: Commands, rank: int) -> str:
    return (commands.folder / "run" / "logs" / f"rank_{rank}.log").read_text()


def pid_of_rank(running: Running, rank: int) -> int:
    for pid in running.processes():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables and b"run_module" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"rank {rank} is not there")


def reports(stderr: str) -> list[str]:
    """What ranks have reported; the agent may add that it had to kill a rank that was stopped."""
    lines = [line for line in stderr.splitlines() if line.startswith("disttrain: error:")]
    return [line for line in lines if "had not ended with its peers and was killed" not in line]


def test_a_stopped_rank_is_named_with_its_phase_and_stack_and_the_job_ends_with_144(
    commands: Commands, measured: Measured
) -> None:
    running = commands.start(command(commands, "--workers", "2"))
    until_it_trains(commands, running)
    pid = pid_of_rank(running, 1)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    ended = running.wait()
    measured("seconds from SIGSTOP to the end of the job", round(time.monotonic() - began, 1))
    assert ended.code == 144, ended.stderr
    assert len(reports(ended.stderr)) == 1, ended.stderr
    assert f"rank 1 on {socket.gethostname()} (pid {pid}) holds the others up" in ended.stderr
    assert re.search(
        r"no heartbeat for \d+ s, its process is stopped \(SIGSTOP\); last seen in phase \w+", ended.stderr
    )
    assert re.search(r"loop\.py:\d+ train", ended.stderr)  # the innermost calls: maybe without `train` itself
    assert re.search(r"rank 0: in phase allreduce \(waiting for the other ranks\) of step \d+ for \d+ s", ended.stderr)
    assert "holds the others up" in rank_log(commands, 0)
    assert "Traceback" not in ended.stderr


def test_of_several_ranks_that_wait_one_reports_and_all_write_it_down(commands: Commands, measured: Measured) -> None:
    ranks = start_by_hand(commands, world_size=3)
    until_it_trains(commands, ranks[0])
    os.kill(ranks[2].process.pid, signal.SIGSTOP)
    began = time.monotonic()
    endings = [one.wait() for one in ranks[:2]]
    seconds = time.monotonic() - began
    ranks[2].kill()
    measured("seconds from SIGSTOP to the end of the others", round(seconds, 1))
    assert [one.code for one in endings] == [144, 144]
    stderr = "".join(one.stderr for one in endings)
    assert len(reports(stderr)) == 1, stderr
    assert re.search(r"rank 2 on \S+ \(pid \d+\) holds the others up", stderr)
    for rank in range(2):
        assert re.search(r"rank 2 on \S+ \(pid \d+\) holds the others up", rank_log(commands, rank))
        dump = commands.folder / "run" / "logs" / f"flight_recorder_rank_{rank}"
        assert dump.exists() or torch.__version__ < "2.15"  # torch 2.9 records NCCL's operations, not gloo's
        assert (str(dump.relative_to(commands.folder)) in rank_log(commands, rank)) == dump.exists()


def test_a_stopped_rank_zero_that_hosts_the_store_is_named_by_the_others(
    commands: Commands, measured: Measured
) -> None:
    zero, one = start_by_hand(commands)
    until_it_trains(commands, one)
    os.kill(zero.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    ended = one.wait()
    seconds = time.monotonic() - began
    zero.kill()
    measured("seconds from SIGSTOP to the end of the others", round(seconds, 1))
    assert ended.code == 144, ended.stderr
    assert len(reports(ended.stderr)) == 1, ended.stderr
    host = f"rank 0 on {socket.gethostname()} (pid {zero.process.pid})"
    assert f"{host}, which hosts the store, gives no answer for " in ended.stderr
    assert "its process is stopped (SIGSTOP)" in ended.stderr
    assert re.search(r"last seen in phase \w+.* of step \d+; its stack", ended.stderr)
    assert "gives no answer" in rank_log(commands, 1)


@pytest.mark.parametrize("stopped", [0, 1], ids=["rank_0", "rank_1"])
def test_a_rank_that_stops_in_the_last_save_is_named_by_the_one_that_waits_for_it(
    commands: Commands, measured: Measured, stopped: int
) -> None:
    """A save may take as long as the disk needs; waiting for one who writes no more is another matter."""
    kwargs = f"model.kwargs={{stops_on: '{stopped}'}}"
    ranks = start_by_hand(commands, "model.name=user_code:StopsInASave", kwargs, "train.epochs=1")
    process = ranks[stopped].process
    stat = Path(f"/proc/{process.pid}/stat")
    ranks[1 - stopped].poll(lambda: ") T " in stat.read_text(), "the save")
    began = time.monotonic()
    ended = ranks[1 - stopped].wait()
    seconds = time.monotonic() - began
    ranks[stopped].kill()
    measured("seconds from SIGSTOP in a save to the end of the other", round(seconds, 1))
    assert ended.code == 144, ended.stderr
    assert len(reports(ended.stderr)) == 1, ended.stderr
    assert f"rank {stopped} on {socket.gethostname()} (pid {process.pid})" in ended.stderr
    assert "its process is stopped (SIGSTOP)" in ended.stderr


@pytest.mark.parametrize("launch", ["workers", "by_hand"])
def test_a_dataset_that_blocks_on_one_rank_is_named_with_the_function_that_blocks(
    commands: Commands, launch: str
) -> None:
    blocks = "data.kwargs.blocks_on='1'"
    if launch == "workers":
        endings = [commands.run(command(commands, "--workers", "2", blocks))]
    else:
        endings = [one.wait() for one in start_by_hand(commands, blocks)]
    assert {one.code for one in endings} == {144}, endings[0].stderr
    stderr = "".join(one.stderr for one in endings)
    assert len(reports(stderr)) == 1, stderr
    assert re.search(r"rank 1 on \S+ \(pid \d+\): in phase data \(waiting for data\) of step \d+ for \d+ s", stderr)
    assert re.search(r"user_code\.py:\d+ wait_for_a_disk_that_never_answers\n", stderr)
    for rank in range(2):
        assert "wait_for_a_disk_that_never_answers" in rank_log(commands, rank)


@pytest.mark.parametrize("killed", [0, 1], ids=["rank_0_that_hosts_the_store", "rank_1"])
def test_a_rank_killed_in_training_is_named(commands: Commands, killed: int) -> None:
    ranks = start_by_hand(commands, "comm.timeout_s=600.0")
    lost, other = ranks[killed], ranks[1 - killed]
    until_it_trains(commands, other)
    pid = lost.process.pid
    lost.process.kill()
    ended = other.wait()
    assert ended.code == 144, ended.stderr
    assert len(reports(ended.stderr)) == 1, ended.stderr
    named = rf"rank {killed} on \S+ \(pid {pid}\) was lost in phase \w+.* of step \d+"
    assert re.search(named, ended.stderr), ended.stderr


def test_a_job_that_was_suspended_as_a_whole_goes_on(commands: Commands) -> None:
    """Slurm does so. Time that passed for nobody is no wait."""
    ranks = start_by_hand(commands, "comm.timeout_s=4.0")
    until_it_trains(commands, ranks[0])
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for one in ranks:
            os.kill(one.process.pid, number)
        if number == signal.SIGSTOP:
            time.sleep(7)  # nothing to poll for: it is time itself that has to pass
    before = step(commands)
    ranks[0].poll(lambda: step(commands) > before + 20, "further steps")
    for one in ranks:
        one.process.send_signal(signal.SIGTERM)
    endings: list[Ended] = [one.wait() for one in ranks]
    assert [one.code for one in endings] == [143, 143], endings[0].stderr


def step(commands: Commands) -> int:
    value: int = json.loads((commands.folder / "run" / "status.json").read_text())["step"]
    return value
