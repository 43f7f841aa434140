"""Who holds the others up, and the words for it."""

from __future__ import annotations

import pytest

from disttrain.comm.hang_report import find_blocking_ranks, render_hang, render_silent_store
from disttrain.comm.heartbeat import Beat, Peer
from disttrain.system.processes import GONE

WAITS = frozenset({"allreduce"})
ON_GPU = frozenset({"allreduce", "backward", "optimizer"})


def peer(
    rank: int,
    step: int,
    phase: str,
    heartbeat_age_s: float = 0.5,
    state: str | None = "S",
    left: bool = False,
    stack: str = "",
) -> Peer:
    return Peer(
        rank,
        Beat(9, f"node{rank // 2}", ["here", 100 + rank, 7], step, phase, 60.0, "", left),
        heartbeat_age_s,
        state,
        stack,
    )


@pytest.mark.parametrize(
    ("ranks", "blocking"),
    [
        ([peer(0, 5, "allreduce"), peer(1, 5, "data")], [1]),
        ([peer(0, 5, "allreduce"), peer(1, 5, "forward"), peer(2, 5, "data")], [2]),
        ([peer(0, 5, "allreduce"), peer(1, 5, "data"), peer(2, 5, "data")], [1, 2]),
        # Evaluating comes later in a step than its reduction, yet it is what the rank in a reduction waits for.
        ([peer(0, 5, "allreduce"), peer(1, 5, "evaluating")], [1]),
        ([peer(0, 6, "allreduce"), peer(1, 5, "saving"), peer(2, 6, "data")], [1]),
        ([peer(0, 6, "allreduce"), peer(1, 5, "allreduce")], [1]),
        ([peer(0, 5, "allreduce", 40), peer(1, 5, "data")], [0]),
        ([peer(0, 5, "allreduce"), peer(1, 5, "allreduce", state=GONE), peer(2, 5, "data", 40)], [1]),
        ([peer(0, 5, "allreduce"), peer(1, 9, "logging", 40, GONE, left=True), peer(2, 5, "data")], [2]),
        ([peer(0, 5, "allreduce"), peer(1, 5, "allreduce")], []),
    ],
    ids=[
        "in_data", "the_earlier_phase", "two_of_them", "in_evaluation", "in_an_earlier_step", "in_an_earlier_reduction",
        "silent_before_slow", "gone_before_silent", "not_one_that_has_left", "nobody",
    ],
)  # fmt: skip
def test_the_rank_that_the_others_wait_for_is_found(ranks: list[Peer], blocking: list[int]) -> None:
    assert [one.rank for one in find_blocking_ranks(ranks, WAITS, max_age_s=30)] == blocking


def test_on_a_gpu_a_rank_in_the_optimizer_waits_too() -> None:
    assert find_blocking_ranks([peer(0, 5, "optimizer"), peer(1, 5, "optimizer")], ON_GPU, 30) == []
    assert [one.rank for one in find_blocking_ranks([peer(0, 5, "optimizer"), peer(1, 5, "data")], ON_GPU, 30)] == [1]


def test_the_report_has_rank_host_process_phase_time_stack_and_what_the_others_do() -> None:
    slow = peer(1, 57, "data", 0.4, stack="loop.py:59 train\nuser.py:7 read")
    ranks = [peer(0, 57, "allreduce"), slow, peer(2, 57, "allreduce"), peer(3, 58, "logging", left=True)]
    assert render_hang(ranks, [slow], 60.2, 60.0).splitlines() == [
        "no progress for 60 s (comm.timeout_s=60): rank 1 on node0 (pid 101) holds the others up",
        f"  {slow.name}: in phase data (waiting for data) of step 57 for 60 s; its stack, innermost call last:",
        "    loop.py:59 train",
        "    user.py:7 read",
        "  ranks 0,2: in phase allreduce (waiting for the other ranks) of step 57 for 60 s",
        "  rank 3: ended before",
    ]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("T", "its process is stopped (SIGSTOP)"),
        ("D", "its process waits in the kernel, for a disk or a network drive say"),
        ("S", "it is frozen, or its host is cut off"),
        (None, "it is frozen, or its host is cut off"),
    ],
)
def test_of_a_silent_rank_is_said_what_is_known(state: str | None, why: str) -> None:
    silent = peer(1, 57, "forward", 58, state)
    text = render_hang([peer(0, 57, "allreduce"), silent], [silent], 60, 60)
    assert f"rank 1 on node0 (pid 101): no heartbeat for 58 s, {why}; last seen in phase forward of step 57" in text


def test_where_nobody_is_behind_the_network_is_to_blame_and_hosts_are_listed() -> None:
    text = render_hang([peer(0, 5, "allreduce"), peer(3, 5, "allreduce")], [], 60, 60)
    assert "the network between them is to blame. Hosts: node0, node1" in text


def test_of_many_blocking_the_first_are_shown() -> None:
    ranks = [peer(rank, 5, "data") for rank in range(9)]
    text = render_hang(ranks, ranks, 60, 60)
    assert "ranks 0-8 hold the others up" in text
    assert text.count("in phase data") == 4
    assert text.endswith("and 5 more")


def test_a_store_that_gives_no_answer_is_reported_with_who_hosts_it() -> None:
    host = peer(0, 57, "forward", 58, "T", stack="loop.py:59 train")
    assert render_silent_store(host, "node0:29500", 58).splitlines() == [
        f"{host.name}, which hosts the store, gives no answer for 58 s: its process is stopped (SIGSTOP)",
        "  last seen in phase forward of step 57; its stack, innermost call last:",
        "    loop.py:59 train",
    ]
    assert render_silent_store(None, "node0:29500", 58).startswith("the store at node0:29500 gives no answer")
