"""Which exit codes of ranks are worth another start, and what the job's own becomes."""

from __future__ import annotations

import pytest

from disttrain.launch.exit_codes import describe, job_exit_code, may_run_again


@pytest.mark.parametrize(
    ("rank", "job", "again"),
    [
        (0, 0, False),
        (1, 1, True),
        (2, 2, False),
        (3, 3, False),
        (4, 4, False),
        (5, 5, False),
        (130, 130, False),
        (143, 143, False),
        (144, 144, True),
        (-2, 130, False),
        (-9, 144, True),
        (-10, 143, False),
        (-11, 144, True),
        (-12, 143, False),
        (-15, 143, False),
    ],
)
def test_a_ranks_exit_code_decides_that_of_the_job_and_whether_it_may_run_again(
    rank: int, job: int, again: bool
) -> None:
    assert job_exit_code(rank) == job
    assert may_run_again(job_exit_code(rank)) == again


def test_a_rank_that_was_killed_is_told_with_the_name_of_the_signal() -> None:
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(-200) == "was killed by signal 200"
    assert describe(144) == "lost a peer"
    assert describe(1) == "ended with exit code 1"
