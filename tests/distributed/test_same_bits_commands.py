"""`batch.shards` and `--verify-against` as commands of their own: nodes that leave and come, ranks that are lost."""

from __future__ import annotations

import pytest

from .commands import Commands, Running
from .test_elastic import after_a_checkpoint, is_listening, kill_for_good, node, worlds
from .test_exit_codes import command as exit_code_command
from .test_nodes import free_port
from .test_resume import command, metrics, sha256


@pytest.mark.long
def test_the_command_names_the_step_and_the_tensor_and_ends_with_5(commands: Commands) -> None:
    shards = ["batch.shards=4", "batch.global_batch_size=16", "train.max_steps=6"]
    sound = commands.folder / "sound"
    commands.succeed(command(sound, 1, *shards, "train.record_digests=true"))
    again = commands.succeed(command(commands.folder / "again", 2, *shards) + ["--verify-against", str(sound)])
    assert "up to step 6 every digest is that of" in again.stderr
    other = commands.run(
        command(commands.folder / "other", 2, *shards, "optim.lr=3.0e-3") + ["--verify-against", str(sound)]
    )
    assert other.code == 5
    assert "after step 1 'features.0.weight' (and " in other.stderr
    assert "though the gradients of the step are the same" in other.stderr
    missing = commands.run(command(commands.folder / "new", 2, *shards) + ["--verify-against", str(commands.folder)])
    assert missing.code == 2
    assert "it has no digests.jsonl. Train that run with train.record_digests=true first" in missing.stderr


@pytest.mark.parametrize(
    ("fault", "code", "what"),
    [("dies_on", 144, "was killed by SIGKILL. Run the same"), ("raises_on", 1, "this cannot be computed")],
    ids=["killed", "raises"],
)
def test_a_rank_that_is_lost_in_a_step_ends_the_job_and_is_named(
    commands: Commands, fault: str, code: int, what: str
) -> None:
    """The others wait for its part of the sum then, in a thread of theirs."""
    shards = ["batch.shards=4", "comm.timeout_s=600.0"]
    ended = commands.run(exit_code_command(commands, "workers", f"model.kwargs.{fault}='1'", *shards))
    assert ended.code == code, ended.stderr
    assert what in ended.stderr


@pytest.mark.long
def test_an_elastic_run_on_3_then_2_then_3_nodes_ends_with_the_bits_of_1_worker(commands: Commands) -> None:
    fields = ["batch.shards=8", "batch.micro_batch_size=null", "train.max_steps=60", "train.epochs=50",
              "optim.lr=1.0e-3"]  # fmt: skip
    alone, run_dir, port = commands.folder / "alone", commands.folder / "elastic", free_port()
    commands.succeed(command(alone, 1, *fields))
    slow = commands.write("slow", "")

    def started() -> Running:
        return node(commands, run_dir, port, "2:3", "--max-restarts", "3", fields=fields)

    nodes = [started()]
    nodes[0].poll(lambda: is_listening(port), "the meeting place")
    nodes += [started(), started()]
    nodes[0].poll(lambda: 3 in worlds(run_dir), "three nodes")  # the third may come late, and join
    after_a_checkpoint(nodes[0], run_dir)
    kill_for_good(nodes.pop())
    nodes[0].poll(lambda: worlds(run_dir)[-1] == 2, "a start on 2 nodes")
    nodes.append(started())
    nodes[0].poll(lambda: worlds(run_dir)[-1] == 3, "a start on 3 nodes again")
    slow.unlink()
    ended = [one.wait() for one in nodes]
    assert [one.code for one in ended] == [0, 0, 0], "\n".join(one.stderr for one in ended)
    assert worlds(run_dir)[-3:] == [3, 2, 3]
    assert sha256(run_dir) == sha256(alone)
    assert metrics(run_dir) == metrics(alone)
