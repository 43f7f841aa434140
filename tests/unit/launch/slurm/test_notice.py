"""--signal of sbatch, as checkpoint.notice_s."""

from __future__ import annotations

import pytest

from disttrain.errors import ConfigError
from disttrain.launch.slurm.notice import notice_s


@pytest.mark.parametrize(
    ("option", "seconds"),
    [
        ("", None),
        ("B:USR1@120", 110.0),
        ("USR2@300", 290.0),
        ("BR:SIGTERM@90", 80.0),
        ("B:USR1", 50.0),
        ("B:10@12", 6.0),
    ],
)
def test_the_time_of_the_signal_less_that_of_a_requeue_is_the_notice(option: str, seconds: float | None) -> None:
    assert notice_s(option) == seconds


@pytest.mark.parametrize(
    ("option", "part"),
    [("B:USR1@soon", "B:USR1@120"), ("X:USR1", "B:USR1@120"), ("USR1@70000", "B:USR1@120"), ("B:HUP@90", "USR1@90")],
)
def test_a_signal_by_which_no_rank_stops_is_refused_with_one_by_which_all_do(option: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        notice_s(option)
