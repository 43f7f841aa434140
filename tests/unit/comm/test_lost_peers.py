"""Which of the ranks that one waits for are lost."""

from __future__ import annotations

import pytest

from disttrain.comm.heartbeat import Beat, Peer
from disttrain.comm.lost_peers import describe_missing
from disttrain.system.processes import GONE


def peer(rank: int, heartbeat_age_s: float = 0.5, state: str | None = "S", left: bool = False, stage: str = "") -> Peer:
    return Peer(rank, Beat(9, "node1", ["here", 42, 7], 3, "forward", 1.0, stage, left), heartbeat_age_s, state)


@pytest.mark.parametrize(
    ("one", "what"),
    [
        (peer(1), None),
        (peer(1, heartbeat_age_s=59), None),
        (
            peer(1, heartbeat_age_s=61),
            "rank 1 on node1 (pid 42) was lost in phase forward of step 3: no heartbeat for 61 s",
        ),
        (peer(1, state=GONE), "rank 1 on node1 (pid 42) was lost in phase forward of step 3: its process is gone"),
        (peer(1, state=GONE, left=True), "rank 1 on node1 (pid 42) has ended in phase forward of step 3"),
        (peer(1, state="T"), None),
        (
            peer(1, state=GONE, stage="prepare"),
            "rank 1 on node1 (pid 42) was lost in phase forward of step 3, at the stage 'prepare': its process is gone",
        ),
    ],
)
def test_a_rank_is_waited_for_as_long_as_it_shows_signs_of_life(one: Peer, what: str | None) -> None:
    assert describe_missing([one], [1], timeout_s=60, is_over=True) == what


def test_a_rank_that_is_lost_but_has_been_here_is_no_reason_to_end_the_wait_for_another() -> None:
    assert describe_missing([peer(1, state=GONE), peer(2)], [2], timeout_s=60, is_over=False) is None


def test_ranks_that_never_came_count_as_lost_once_their_time_is_over() -> None:
    assert describe_missing([peer(1)], [1, 2, 3], 60, is_over=False) is None
    text = describe_missing([peer(1)], [1, 2, 3], 60, is_over=True)
    assert text is not None
    assert text.startswith("ranks 2-3 of the job never sent a heartbeat")
