"""Whole runs on Horovod: killed, asked to stop, frozen, damaged, gone on with; and what they are refused for."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import site
import socket
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .commands import DISTTRAIN, REPOSITORY, Commands, Ended, needs_horovod
from .pool import Measured, relative_difference
from .test_elastic import after_a_checkpoint
from .test_hangs import command as points_command
from .test_hangs import pid_of_rank, reports, until_it_trains
from .test_integrity import MODULE as DAMAGED
from .test_nodes import free_port
from .test_resume import command, sha256, stop_after_first_checkpoint, uninterrupted

pytestmark = needs_horovod

HOROVOD = "train.backend=horovod"
BIASED = """
import torch

class Net(torch.nn.Module):
    def __init__(self, input_shape, class_count):
        super().__init__()
        self.used, self.unused = torch.nn.Linear(1200, class_count), torch.nn.Linear(1200, class_count)

    def forward(self, images):
        return self.used(images.flatten(1))
"""
BOTH = "'fusion_mib': 1.0, 'cycle_time_ms': 2.0"
SMALL = "model: {name: 'parts:Net'}\ndata: {kwargs: {count: 400}}\n"


def test_resume_after_a_kill_gives_the_same_bits_as_no_interruption(commands: Commands) -> None:
    whole, run_dir = uninterrupted(commands, 3, [HOROVOD]), commands.folder / "killed"
    argv = command(run_dir, 3, HOROVOD)
    ended = stop_after_first_checkpoint(commands, argv, run_dir, signal.SIGKILL).wait()
    assert ended.code == 144, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "goes on from step" in commands.succeed(argv).stderr
    assert sha256(run_dir) == sha256(whole)


def test_a_killed_rank_is_started_again(commands: Commands) -> None:
    more = [HOROVOD, "train.max_steps=60"]
    whole, run_dir = uninterrupted(commands, 2, more), commands.folder / "killed"
    running = after_a_checkpoint(commands.start([*command(run_dir, 2, *more), "--max-restarts", "1"]), run_dir)
    os.kill(running.ranks()[-1], signal.SIGKILL)
    ended = running.wait()
    assert ended.code == 0, ended.stderr
    assert "was killed by SIGKILL: restart 1 of 1" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sha256(run_dir) == sha256(whole)


def test_a_signal_to_one_rank_saves_and_ends_all_with_143(commands: Commands) -> None:
    more = [HOROVOD, "train.max_steps=60"]
    whole, run_dir = uninterrupted(commands, 2, more), commands.folder / "asked"
    argv = command(run_dir, 2, *more)
    ended = stop_after_first_checkpoint(commands, argv, run_dir, signal.SIGTERM).wait()
    assert ended.code == 143, ended.stderr
    assert ended.stderr.count("asked to stop: the checkpoint of step") == 1
    commands.succeed(argv)
    assert sha256(run_dir) == sha256(whole)


def test_a_stopped_rank_is_named_and_the_job_ends_with_144(commands: Commands, measured: Measured) -> None:
    running = commands.start(points_command(commands, HOROVOD, "--workers", "2"))
    until_it_trains(commands, running)
    pid = pid_of_rank(running, 1)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    ended = running.wait()
    seconds = time.monotonic() - began
    measured("seconds from SIGSTOP to the end of the job", round(seconds, 1))
    assert ended.code == 144, ended.stderr
    assert len(reports(ended.stderr)) == 1, ended.stderr
    assert f"rank 1 on {socket.gethostname()} (pid {pid}) holds the others up" in ended.stderr
    assert re.search(r"rank 0: in phase allreduce \(waiting for the other ranks\) of step \d+ for \d+ s", ended.stderr)


def test_a_flipped_bit_ends_the_run_with_5(commands: Commands) -> None:
    commands.write("parts.py", DAMAGED)
    config = commands.write("config.yaml", SMALL.replace("Net", "Damaged"))
    ended = commands.run(
        [*DISTTRAIN, "train", config, "--workers", "3", "--run-dir", "run", "batch.global_batch_size=20", HOROVOD,
         "checkpoint.every_steps=4", "train.max_steps=40", "train.check_weights_every_steps=5"]
    )  # fmt: skip
    assert ended.code == 5, ended.stderr
    assert ended.stderr.count("disttrain: error:") == 1
    assert "rank 1 differs from the 2 others" in ended.stderr


def test_a_run_begun_with_ddp_goes_on_with_horovod_when_told_to(commands: Commands) -> None:
    whole, run_dir = uninterrupted(commands, 2, ["model.dropout=0.0"]), commands.folder / "changed"
    stop_after_first_checkpoint(commands, command(run_dir, 2, "model.dropout=0.0"), run_dir, signal.SIGKILL).wait()
    argv = command(run_dir, 2, "model.dropout=0.0", HOROVOD)
    refused = commands.run(argv)
    assert refused.code == 2, refused.stderr
    assert "train.backend" in refused.stderr
    assert "--accept-changed-config" in refused.stderr
    assert "goes on from step" in commands.succeed([*argv, "--accept-changed-config"]).stderr
    weights = [load_file(one / "model/model.safetensors") for one in (run_dir, whole)]
    assert relative_difference(*weights) < 1e-5


def test_a_network_with_an_unused_parameter_trains_and_its_model_can_be_used(commands: Commands) -> None:
    commands.write("parts.py", BIASED)
    config = commands.write("config.yaml", SMALL)
    argv: list[str | Path] = [*DISTTRAIN, "train", config, HOROVOD, "train.max_steps=8", "batch.global_batch_size=20"]
    commands.succeed([*argv, "--workers", "2", "--run-dir", "run", "comm.cycle_time_ms=2.5", "comm.fusion_mib=0.5"])
    result = json.loads((commands.folder / "run/result.json").read_text())
    ended = commands.succeed([*DISTTRAIN, "evaluate", "run/model", "--workers", "2", "--allow-code"])
    assert json.loads(ended.stdout)["accuracy"] == result["test"]["accuracy"]


def refusal(ended: Ended, *parts: str) -> None:
    """One message that says all the parts."""
    assert ended.code == 2, ended.stderr
    assert ended.stderr.count("disttrain: error:") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    for part in parts:
        assert part in ended.stderr


def copy_of(folder: Path, into: Path, without: str) -> Path:
    """A folder with links to all that is in another one but for what begins so."""
    into.mkdir()
    for entry in folder.iterdir():
        if not entry.name.startswith(without):
            (into / entry.name).symlink_to(entry)
    return into


def test_where_horovod_is_not_installed_the_way_to_it_is_said_once(commands: Commands) -> None:
    packages = copy_of(Path(site.getsitepackages()[0]), commands.folder / "packages", without="horovod")
    port, path = str(free_port()), f"{packages}:{REPOSITORY}"
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # -S: this interpreter's own packages are not looked at.
    argv = [sys.executable, "-S", *command(commands.folder / "run", 2, HOROVOD)[1:]]
    argv = [word for word in argv if word not in ("--workers", "2")]
    ranks = [
        commands.start(argv, PYTHONPATH=path, RANK=str(rank), LOCAL_RANK=str(rank), **variables) for rank in range(2)
    ]
    endings = [one.wait() for one in ranks]
    assert [one.code for one in endings] == [2, 2], endings
    both = Ended(2, "", "".join(one.stderr for one in endings), max(one.wall_s for one in endings))
    refusal(both, "Horovod is not installed", "launchers/install_horovod.sh", "train.backend=ddp")


def test_a_horovod_for_another_torch_is_refused(commands: Commands) -> None:
    spec = importlib.util.find_spec("horovod")
    assert spec is not None
    assert spec.origin is not None
    folder = copy_of(Path(spec.origin).parent, commands.folder / "horovod", without="metadata.json")
    (folder / "metadata.json").write_text(json.dumps({"pytorch": "1.13.0"}))
    ended = commands.run(command(commands.folder / "run", 2, HOROVOD))
    refusal(ended, "Horovod is built for torch 1.13.0", "Build it again: launchers/install_horovod.sh")


@pytest.mark.parametrize(
    ("workers", "more", "parts"),
    [
        (3, ["comm.adasum=true"], ["comm.adasum=true on world_size=3", "Use 2, 4, 8"]),
        (2, ["comm.adasum=true"], ["comm.adasum=true", "over MPI only", "launchers/mpirun.sh"]),
        (2, ["comm.timeline=missing/file.json"], ["comm.timeline=missing/file.json: its folder does not exist"]),
    ],
    ids=["ranks", "adasum", "timeline"],
)
def test_what_cannot_work_is_refused_at_the_start(
    commands: Commands, workers: int, more: list[str], parts: list[str]
) -> None:
    refusal(commands.run(command(commands.folder / "run", workers, HOROVOD, *more)), *parts)


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, ["HOROVOD_"]),
        (
            {"HOROVOD_RANK": "2", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "2",
             "HOROVOD_CROSS_RANK": "0", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
             "HOROVOD_GLOO_RENDEZVOUS_PORT": "1234"},
            ["HOROVOD_RANK=2", "HOROVOD_SIZE=2"],
        ),
        (
            {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2",
             "HOROVOD_CROSS_RANK": "0", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
             "HOROVOD_GLOO_RENDEZVOUS_PORT": "1234", "RANK": "0"},
            ["RANK=0, but the horovod variables say 1", "Unset RANK"],
        ),
    ],
    ids=["half", "range", "disagree"],
)  # fmt: skip
def test_variables_of_horovodrun_that_disagree_are_refused(
    commands: Commands, variables: dict[str, str], parts: list[str]
) -> None:
    argv = [word for word in command(commands.folder / "run", 2, HOROVOD) if word not in ("--workers", "2")]
    refusal(commands.run(argv, **variables), *parts)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (BOTH, BOTH, "comm.fusion_mib and comm.cycle_time_ms have both been set"),
        ("'autotune': True", "", "comm.autotune=true when Horovod was started here before"),
        ("", "'cycle_time_ms': 2.0", "HOROVOD_CYCLE_TIME=2.0"),
    ],
    ids=["both", "autotune", "changed"],
)
def test_a_second_start_that_cannot_be_as_asked_is_refused(
    commands: Commands, first: str, second: str, message: str
) -> None:
    program = commands.write(
        "twice.py",
        "import disttrain, torch\n"
        "points = torch.utils.data.TensorDataset(torch.randn(40, 2), torch.zeros(40, dtype=torch.long))\n"
        f"for comm in ({{{first}}}, {{{second}}}):\n"
        "    disttrain.fit(torch.nn.Linear(2, 2), points, train={'backend': 'horovod', 'max_steps': 2}, comm=comm)\n"
        "    print('trained')\n",
    )
    ended = commands.run([sys.executable, program])
    assert (ended.code, ended.stdout) == (1, "trained\n")
    assert ended.stderr.count(message) == 1, ended.stderr


@pytest.mark.long
@pytest.mark.parametrize("workers", [2, 3])
def test_joined_buckets_and_a_search_for_the_best_way_change_no_result(
    commands: Commands, workers: int, measured: Measured
) -> None:
    """In processes of their own, since Horovod keeps its tuning as long as a process lives."""
    more = [HOROVOD, "comm.bucket_mib=0.001", "train.max_steps=20", "train.check_weights_every_steps=5"]
    apart = commands.folder / "whole"
    commands.succeed(command(apart, workers, *more, "comm.timeline=whole.json"))
    ways = {
        "unjoined": ["comm.fusion_mib=0", "comm.timeline=unjoined.json"],
        # A cycle long enough for all buckets of a step to be ready in the same one.
        "joined": ["comm.fusion_mib=0.5", "comm.cycle_time_ms=20", "comm.timeline=joined.json"],
        "tuned": ["comm.autotune=true"],
    }
    search = {
        "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "0",
        "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "1",
        "HOROVOD_AUTOTUNE_LOG": str(commands.folder / "tried.csv"),
    }
    for name, way in ways.items():
        run_dir = commands.folder / name
        commands.succeed(command(run_dir, workers, *more, *way), **search)
        weights = [load_file(one / "model/model.safetensors") for one in (run_dir, apart)]
        difference = relative_difference(*weights)
        measured(f"relative difference, {name}", difference)
        assert difference < 1e-5
        if workers == 2:  # whose sums are the same in either order
            assert sha256(run_dir) == sha256(apart)
    timelines = {name: (commands.folder / f"{name}.json").read_text() for name in ("whole", "unjoined", "joined")}
    assert [name for name, text in timelines.items() if "MEMCPY_IN_FUSION_BUFFER" in text] == ["joined"]
    tried = (commands.folder / "tried.csv").read_text().splitlines()[1:]
    assert len({line.rsplit(",", 1)[0] for line in tried}) >= 3  # without the score


def test_variables_of_another_job_do_not_mislead_ranks_of_the_agent(commands: Commands) -> None:
    strange = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "203.0.113.1", "HOROVOD_GLOO_RENDEZVOUS_PORT": "9"}
    commands.succeed(command(commands.folder / "run", 2, HOROVOD, "train.max_steps=2"), **strange)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
def test_adasum_trains_on_two_ranks_of_mpirun(commands: Commands) -> None:
    run_dir, launcher = commands.folder / "run", str(REPOSITORY / "launchers/mpirun.sh")
    train = [word for word in command(run_dir, 2, HOROVOD, "comm.adasum=true")[4:] if word not in ("--workers", "2")]
    commands.succeed([launcher, "-np", "2", "-H", "localhost:2", *train], OMP_NUM_THREADS="1")
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["world_size"], result["step"]) == (2, 24)
    plain = uninterrupted(commands, 2, [HOROVOD])
    weights = [load_file(one / "model/model.safetensors") for one in (run_dir, plain)]
    assert relative_difference(*weights) > 1e-4  # it is not the mean
