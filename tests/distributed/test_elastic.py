"""The elastic agent: ranks that lose a peer are started again, with fewer nodes or with more, and lose nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .commands import AGENT, DISTTRAIN, DISTTRAIN_ANEW, TORCHRUN, Commands, Ended, Running, needs_horovod
from .pool import Measured, relative_difference
from .test_exit_codes import CONFIG as USER_CONFIG
from .test_exit_codes import USER_CODE
from .test_nodes import free_port
from .test_resume import CONFIG, command, sha256, uninterrupted

LONGER = ("train.max_steps=120", "train.epochs=50", "optim.lr=1.0e-3")
NO_DROPOUT = "model.dropout=0.0"  # drawn per rank: only without it the weights do not depend on their number
FIELDS = (*LONGER, NO_DROPOUT)
# A whole job may take less time than its last node needs to start: while the file is there, no step is quick.
SLOW_WHILE_ASKED = """
import time
from pathlib import Path

from disttrain.models.planesnet import PlanesNetCnn


class Net(PlanesNetCnn):
    def forward(self, images):
        if Path("slow").exists():
            time.sleep(0.3)
        return super().forward(images)
"""


# An agent that gets no processor for a while counts as gone, or comes too late: in these tests sooner than elsewhere.
PATIENT = ("--rdzv-conf", "last_call_timeout=20,keep_alive_max_attempt=10")


def after_a_checkpoint(running: Running, run_dir: Path) -> Running:
    running.poll((run_dir / "checkpoints/latest").exists, "a checkpoint")
    return running


def restarts(ended: Ended) -> list[str]:
    return [line for line in ended.stderr.splitlines() if "training goes on" in line]


def node(
    commands: Commands, run_dir: Path, port: int, nnodes: str, *options: str, fields: Sequence[str] = FIELDS
) -> Running:
    """One node of one rank that finds the others over c10d. Its steps are slow while the file `slow` is there."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "7"]
    argv = [*AGENT, "--nnodes", nnodes, "--nproc-per-node", "1", *meeting, *PATIENT, *options]
    commands.write("slow_while_asked.py", SLOW_WHILE_ASKED)
    config = [*CONFIG, *fields, "model.name=slow_while_asked:Net", "--run-dir", str(run_dir)]
    return commands.start([*argv, *config])


def kill_for_good(running: Running) -> None:
    """A node that goes with all that runs on it."""
    for pid in running.processes():
        os.kill(pid, signal.SIGKILL)


def worlds(run_dir: Path) -> list[int]:
    """The world sizes of a run, start after start; those of several starts in a row once."""
    manifest = run_dir / "manifest.json"
    starts = json.loads(manifest.read_text())["starts"] if manifest.exists() else []
    return [size for size, _ in itertools.groupby(one["world_size"] for one in starts)]


def test_a_killed_rank_is_started_again_and_the_weights_are_those_of_no_interruption(
    commands: Commands, measured: Measured
) -> None:
    whole, run_dir = uninterrupted(commands, 2, [*LONGER]), commands.folder / "killed"
    running = after_a_checkpoint(commands.start([*command(run_dir, 2, *LONGER), "--max-restarts", "1"]), run_dir)
    killed_at = time.monotonic()
    os.kill(running.ranks()[-1], signal.SIGKILL)
    running.poll(lambda: "goes on from step" in running.stderr, "a second start")
    measured("seconds_from_kill_to_training", time.monotonic() - killed_at)
    ended = running.wait()
    assert ended.code == 0, ended.stderr
    assert len(restarts(ended)) == 1
    assert "was killed by SIGKILL: restart 1 of 1, training goes on from the last checkpoint" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert json.loads((run_dir / "result.json").read_text())["restarts"] == 1
    assert sha256(run_dir) == sha256(whole)


def test_a_frozen_rank_is_killed_soon_after_its_peers_have_left_and_all_start_again(commands: Commands) -> None:
    whole, run_dir = uninterrupted(commands, 2, [*LONGER]), commands.folder / "frozen"
    argv = [*command(run_dir, 2, *LONGER, "comm.timeout_s=6.0"), "--max-restarts", "1"]
    running = after_a_checkpoint(commands.start(argv), run_dir)
    os.kill(running.ranks()[-1], signal.SIGSTOP)
    running.poll(lambda: "had not ended with its peers and was killed: restart 1 of 1" in running.stderr, "a restart")
    assert running.wait().code == 0
    assert sha256(run_dir) == sha256(whole)


def user_command(commands: Commands, *more: str) -> list[str | Path]:
    commands.write("user_code.py", USER_CODE)
    return [
        *DISTTRAIN,
        "train",
        commands.write("config.yaml", USER_CONFIG),
        "--workers",
        "2",
        "--run-dir",
        "run",
        *more,
    ]


LAUNCHES: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "workers": ([*DISTTRAIN_ANEW, "train"], ["--workers", "2", "--max-restarts", "1"], {}),
    "torchrun.sh": ([*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"], [], {}),
    "pod": ([*DISTTRAIN_ANEW, "train"], [], {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "PET_MAX_RESTARTS": "1"}),
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_where_the_restarts_are_used_up_the_job_ends_with_144(commands: Commands, launch: str) -> None:
    commands.write("user_code.py", USER_CODE)
    before, behind, variables = LAUNCHES[launch]
    config = commands.write("config.yaml", USER_CONFIG)
    ended = commands.run([*before, config, "model.kwargs.dies_on='1'", "--run-dir", "run", *behind], **variables)
    assert ended.code == 144, ended.stderr
    assert len(restarts(ended)) == 1
    assert "was killed by SIGKILL, and all 1 restarts are used up. Run the same command again" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("override", "code"),
    [("model.name=user_code:broken_net", 2), ("data.kwargs={raises_on: '1'}", 3)],
    ids=["config", "data"],
)
def test_what_a_restart_cannot_mend_is_not_tried_again(commands: Commands, override: str, code: int) -> None:
    ended = commands.run(user_command(commands, override, "--max-restarts", "2"))
    assert (ended.code, restarts(ended)) == (code, []), ended.stderr


@pytest.mark.parametrize("numbers", [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGUSR2,)], ids=["USR1_TERM", "USR2"])
def test_signals_to_the_agent_ask_the_ranks_to_save_and_to_leave_with_143(
    commands: Commands, numbers: tuple[signal.Signals, ...]
) -> None:
    whole, run_dir = uninterrupted(commands, 2, [*LONGER]), commands.folder / "asked"
    argv = [*command(run_dir, 2, *LONGER), "--max-restarts", "3"]
    running = after_a_checkpoint(commands.start(argv), run_dir)
    for number in numbers:
        running.process.send_signal(number)
    ended = running.wait()
    assert (ended.code, restarts(ended)) == (143, []), ended.stderr
    assert "asked to stop: the checkpoint of step" in ended.stderr
    assert json.loads((run_dir / "status.json").read_text())["state"] == "stopped"
    commands.succeed(argv)
    assert sha256(run_dir) == sha256(whole)


def test_a_rank_that_is_asked_to_stop_is_not_started_again(commands: Commands) -> None:
    run_dir = commands.folder / "run"
    argv = [*command(run_dir, 2, *LONGER), "--max-restarts", "3"]
    running = after_a_checkpoint(commands.start(argv), run_dir)
    os.kill(running.ranks()[-1], signal.SIGTERM)
    ended = running.wait()
    assert (ended.code, restarts(ended)) == (143, []), ended.stderr


def test_when_one_of_three_nodes_is_gone_for_good_the_others_finish_with_the_same_weights(
    commands: Commands, measured: Measured
) -> None:
    whole, run_dir = uninterrupted(commands, 3, [*FIELDS]), commands.folder / "fewer"
    port, slow = free_port(), commands.write("slow", "")
    nodes = [node(commands, run_dir, port, "2:3", "--max-restarts", "1")]
    nodes[0].poll(lambda: is_listening(port), "the meeting place")  # the first node hosts it, and is not the one to go
    nodes += [node(commands, run_dir, port, "2:3", "--max-restarts", "1") for _ in range(2)]
    nodes[0].poll(lambda: 3 in worlds(run_dir), "three nodes")  # the third may come late, and join
    after_a_checkpoint(nodes[0], run_dir)
    killed_at = time.monotonic()
    kill_for_good(nodes.pop())
    nodes[0].poll(lambda: worlds(run_dir)[-1] == 2, "a start without it")
    slow.unlink()
    measured("seconds_from_kill_to_training", time.monotonic() - killed_at)
    ended = [one.wait() for one in nodes]
    assert [one.code for one in ended] == [0, 0], "\n".join(one.stderr for one in ended)
    assert worlds(run_dir)[-2:] == [3, 2]
    weights = [load_file(one / "model/model.safetensors") for one in (run_dir, whole)]
    assert relative_difference(*weights) < 1e-5


def is_listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("localhost", port)) == 0


@pytest.mark.parametrize("backend", ["ddp", pytest.param("horovod", marks=needs_horovod)])
def test_a_second_node_joins_a_job_that_runs_on_one(commands: Commands, measured: Measured, backend: str) -> None:
    whole, run_dir = uninterrupted(commands, 2, [*FIELDS]), commands.folder / "more"
    port, slow = free_port(), commands.write("slow", "")
    fields = [*FIELDS, f"train.backend={backend}"]
    first = after_a_checkpoint(node(commands, run_dir, port, "1:2", fields=fields), run_dir)
    joined_at = time.monotonic()
    second = node(commands, run_dir, port, "1:2", fields=fields)
    first.poll(lambda: len(worlds(run_dir)) == 2, "a second start")
    slow.unlink()
    measured("seconds_from_start_of_a_node_to_training_on_it", time.monotonic() - joined_at)
    ended = [first.wait(), second.wait()]
    assert [one.code for one in ended] == [0, 0], "\n".join(one.stderr for one in ended)
    assert worlds(run_dir) == [1, 2]
    assert "another node joins" in ended[0].stderr
    weights = [load_file(one / "model/model.safetensors") for one in (run_dir, whole)]
    assert relative_difference(*weights) < 1e-5


def test_where_the_node_with_the_meeting_place_is_gone_the_others_end_with_144(commands: Commands) -> None:
    run_dir, port = commands.folder / "run", free_port()
    commands.write("slow", "")
    host = node(commands, run_dir, port, "1:2", "--max-restarts", "3")
    host.poll(lambda: is_listening(port), "the meeting place")
    other = node(commands, run_dir, port, "1:2", "--max-restarts", "3")
    other.poll(lambda: 2 in worlds(run_dir), "two nodes that train")
    os.kill(host.process.pid, signal.SIGKILL)
    ended = other.wait()
    assert ended.code == 144, ended.stderr
    assert "--rdzv-endpoint, where the others meet, is gone" in ended.stderr or "rendezvous failed" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert host.wait().code == -signal.SIGKILL  # `wait` looks for ranks that it left


def test_nodes_with_fixed_numbers_start_their_ranks_again_together(commands: Commands) -> None:
    whole, run_dir = uninterrupted(commands, 2, [*LONGER]), commands.folder / "static"
    meeting = ["--master-addr", "localhost", "--master-port", str(free_port()), "--max-restarts", "1"]
    argv = [*AGENT, "--nnodes", "2", "--nproc-per-node", "1", *meeting]
    nodes = [
        commands.start([*argv, "--node-rank", str(number), *CONFIG, *LONGER, "--run-dir", str(run_dir)])
        for number in range(2)
    ]
    after_a_checkpoint(nodes[0], run_dir)
    os.kill(nodes[1].ranks()[0], signal.SIGKILL)
    ended = [one.wait() for one in nodes]
    assert [one.code for one in ended] == [0, 0], "\n".join(one.stderr for one in ended)
    assert [len(restarts(one)) for one in ended] == [1, 1]
    assert sha256(run_dir) == sha256(whole)
