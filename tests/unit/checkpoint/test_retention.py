from __future__ import annotations

from pathlib import Path

import pytest

from disttrain.checkpoint import Score, checkpoint_dir, find_checkpoint

from .saving import flip_bit, logged, names, save, writers


def steps(folder: Path) -> list[int]:
    return [int(name[5:]) for name in names(folder) if name.startswith("step_")]


def read(pointer: Path) -> str:
    return pointer.read_text()


def test_the_newest_ones_are_kept_and_latest_names_the_last(tmp_path: Path) -> None:
    save(writers(tmp_path, keep=2), 10, 20, 30, 40)
    assert names(tmp_path) == ["latest", "step_00000030", "step_00000040"]
    assert read(tmp_path / "latest") == "step_00000040\n"
    assert find_checkpoint(tmp_path) == checkpoint_dir(tmp_path, 40)


@pytest.mark.parametrize(("by", "best"), [("loss", 30), ("accuracy", 20)])
def test_the_best_one_stays_beside_the_newest_and_best_names_it(tmp_path: Path, by: str, best: int) -> None:
    ranks = writers(tmp_path, keep=2, best=by)
    figures = {10: (0.9, 0.5), 20: (0.5, 0.8), 30: (0.4, 0.7), 40: (0.4, 0.8), 50: None, 60: (0.6, None)}
    for step, pair in figures.items():
        save(ranks, step, validation=pair and Score(*pair))
    assert steps(tmp_path) == [best, 50, 60]
    assert read(tmp_path / "best") == f"step_{best:08d}\n"


def test_a_figure_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    ranks = writers(tmp_path, keep=1)
    for step, loss in ((10, float("nan")), (20, 2.0), (30, float("-inf"))):
        save(ranks, step, validation=Score(loss))
    assert steps(tmp_path) == [20, 30]


def test_best_is_found_again_where_a_kill_has_kept_it_from_being_named(tmp_path: Path) -> None:
    ranks = writers(tmp_path, keep=1)
    save(ranks, 10, validation=Score(0.1))
    (tmp_path / "best").unlink()
    save(ranks, 20, 30)
    assert steps(tmp_path) == [10, 30]
    assert read(tmp_path / "best") == "step_00000010\n"


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("step_00000099\n")
    save(writers(tmp_path), 10)
    assert names(tmp_path) == ["latest", "step_00000010"]


def test_saving_after_going_back_removes_the_course_that_was_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(writers(tmp_path, keep=2), 30, 40)
    flip_bit(checkpoint_dir(tmp_path, 40) / "values.json")
    with logged(caplog):
        save(writers(tmp_path, keep=2), 35)
    assert steps(tmp_path) == [30, 35]
    assert read(tmp_path / "latest") == "step_00000035\n"
    assert "step_00000040: training has gone back behind it" in caplog.text


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(writers(tmp_path, 2), 10)
    save(writers(tmp_path, 1), 10, evaluation_due=True)
    assert names(tmp_path) == ["latest", "step_00000010"]
    assert "tensors_1.safetensors" not in names(checkpoint_dir(tmp_path, 10))


def test_names_that_are_no_checkpoints_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step_of_mine").mkdir()
    save(writers(tmp_path, keep=1), 10, 20)
    assert names(tmp_path) == ["latest", "step_00000020", "step_of_mine"]
