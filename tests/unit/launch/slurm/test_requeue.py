"""Which ends of a job lead back into the queue, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from disttrain.files import write_json
from disttrain.launch.slurm.requeue import RECORD, judge, result_stamp, training_code

RUNNING = "JobId=7 JobName=x\n   JobState=RUNNING Reason=None"


def checkpoint(run_dir: Path, step: int) -> None:
    (run_dir / f"checkpoints/step_{step:08d}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (0, 0),
        (1, 1),
        (2, 2),
        (5, 5),
        (130, 130),
        (137, 144),
        (138, 143),
        (139, 144),
        (140, 143),
        (143, 143),
        (144, 144),
    ],
)
def test_a_shells_exit_codes_of_killed_programs_are_read_as_the_ranks_own(code: int, meaning: int) -> None:
    assert training_code(code) == meaning


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 130])
def test_a_job_that_would_end_so_again_is_not_requeued_and_nothing_is_written(code: int, tmp_path: Path) -> None:
    verdict = judge(code, RUNNING, tmp_path / "run", "7", most=3)
    assert (verdict.code, verdict.requeue) == (code, False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", [137, 143, 144])
def test_a_job_that_stopped_or_lost_a_rank_is_requeued(code: int, tmp_path: Path) -> None:
    checkpoint(tmp_path, 40)
    verdict = judge(code, RUNNING, tmp_path, "7", most=3)
    assert verdict.requeue
    assert "job 7 is requeued, and goes on from step 40" in verdict.line


def test_requeues_end_after_so_many_without_a_new_checkpoint_and_one_begins_the_count_anew(tmp_path: Path) -> None:
    checkpoint(tmp_path, 40)
    assert [judge(144, RUNNING, tmp_path, "7", most=2).requeue for _ in range(2)] == [True, True]
    checkpoint(tmp_path, 50)
    assert [judge(144, RUNNING, tmp_path, "7", most=2).requeue for _ in range(2)] == [True, True]
    verdict = judge(144, RUNNING, tmp_path, "7", most=2)
    assert not verdict.requeue
    assert "no newer checkpoint than that of step 50 since 2 requeues" in verdict.line
    assert judge(144, RUNNING, tmp_path, "8", most=2).requeue  # another job's tries are its own


@pytest.mark.parametrize("record", ["", "[]", '{"job": 1}'])
def test_a_damaged_record_counts_as_none(record: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(record)
    assert judge(144, RUNNING, tmp_path, "7", most=1).requeue


@pytest.mark.parametrize(("state", "again"), [("COMPLETING Reason=None", False), ("COMPLETING Reason=TimeLimit", True)])
def test_a_cancelled_job_does_not_come_back_and_one_whose_time_is_over_does(
    state: str, again: bool, tmp_path: Path
) -> None:
    verdict = judge(143, f"JobId=7 JobState={state}", tmp_path, "7", most=3)
    assert verdict.requeue == again
    assert ("Submit it again to go on" in verdict.line) != again


def test_a_training_that_has_finished_is_a_success_whatever_the_starter_says(tmp_path: Path) -> None:
    assert result_stamp(tmp_path) == ""
    write_json(tmp_path / "result.json", {"status": "finished"})
    stamp = result_stamp(tmp_path)
    assert judge(137, RUNNING, tmp_path, "7", most=3).code == 0
    assert judge(137, RUNNING, tmp_path, "7", most=3, result=stamp).code == 144  # that of an earlier job


def test_a_run_directory_that_cannot_be_written_ends_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    verdict = judge(144, RUNNING, tmp_path / "file/run", "7", most=3)
    assert not verdict.requeue
    assert "cannot be written" in verdict.line
