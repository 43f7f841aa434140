"""Files of runs, whole and cut short, read into values and events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from disttrain.errors import ConfigError
from disttrain.report.build import as_json, render_page
from disttrain.report.differences import compared, differing
from disttrain.report.read import load_runs
from disttrain.report.timeline import events_of

START: dict[str, Any] = {
    "time": 1_700_000_000.0, "first_step": 0, "world_size": 2, "launcher": "torchrun", "host": "n0", "device": "cpu: x",
    "versions": {"torch": "2.9.0"},
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that was restarted on other ranks with another torch, and still trains."""
    folder = tmp_path / "one"
    (folder / "logs").mkdir(parents=True)
    again = {**START, "time": 1_700_000_100.0, "first_step": 20, "world_size": 1, "versions": {"torch": "2.10.0"}}
    (folder / "manifest.json").write_text(json.dumps({**again, "starts": [START, again]}))
    lines = [{"time": 0.0, "step": step, "epoch": 0, "split": "train", "loss": 1 / step} for step in (10, 20, 30)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"time": 1, "step": 40, "spl')
    (folder / "config.yaml").write_text("optim: {lr: 0.1}\ntrain: {seed: 0}\n")
    (folder / "logs/rank_0.log").write_text(
        "2023-11-14 22:00:00,000 DEBUG rank 0: nothing of note\n"
        "2023-11-14 22:00:01,500 WARNING rank 0: checkpoint x is refused: damaged\n  and more of it\n"
        "2023-11-14 22:00:02,000 INFO rank 0: epoch 0: ms per step\nrank 0  1.00\nrank 1 is slow: 2 times\n"
    )
    (folder / "logs/rank_1.log").write_text(
        "2023-11-14 22:00:01,900 WARNING rank 1: checkpoint x is refused: damaged\n  and more of it\n"
    )
    return folder


def test_a_line_that_is_cut_short_is_left_out(run_dir: Path) -> None:
    (run,) = load_runs([str(run_dir)])
    assert run.series("train", "loss") == [(10.0, 0.1), (20.0, 0.05), (30.0, pytest.approx(1 / 30))]
    assert run.last_step == 30


def test_a_restart_says_from_where_and_what_has_changed(run_dir: Path) -> None:
    (run,) = load_runs([str(run_dir)])
    restarts = [one for one in events_of(run) if "went on" in one.text]
    assert [one.step for one in restarts] == [20]
    assert "ranks: 2 -> 1; torch: 2.9.0 -> 2.10.0" in restarts[0].text


def test_warnings_of_several_ranks_are_told_once_and_a_slow_rank_is_named(run_dir: Path) -> None:
    (run,) = load_runs([str(run_dir)])
    texts = [one.text for one in events_of(run)]
    assert [one for one in texts if "refused" in one] == [
        "ranks 0, 1: checkpoint x is refused: damaged\n  and more of it"
    ]
    assert "rank 0: rank 1 is slow: 2 times" in texts
    assert not [one for one in texts if "nothing of note" in one]


def test_runs_have_names_of_their_own_and_their_differences_are_found(run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "more" / "one"
    other.mkdir(parents=True)
    for name in ("manifest.json", "metrics.jsonl"):
        (other / name).write_text((run_dir / name).read_text())
    (other / "config.yaml").write_text("optim: {lr: 0.2}\ntrain: {seed: 0}\n")
    runs = load_runs([str(run_dir), str(other)])
    assert len({run.name for run in runs}) == 2
    assert all(run.name.endswith("one") for run in runs)
    machines, settings = compared(runs)
    assert differing(settings) == {"optim.lr": ["0.1", "0.2"]}
    assert differing(machines) == {}
    assert as_json(runs, {})["differences"] == {"optim.lr": ["0.1", "0.2"]}


def test_a_run_without_a_line_yet_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    page = render_page(load_runs([str(tmp_path)]), {})
    assert "no line yet" in page


def test_texts_of_a_run_are_escaped(run_dir: Path) -> None:
    (run_dir / "logs/rank_0.log").write_text("2023-11-14 22:00:01,500 WARNING rank 0: <script>alert(1)</script>\n")
    (run_dir / "config.yaml").write_text("model: {name: '<script>'}\n")
    assert "<script" not in render_page(load_runs([str(run_dir)]), {})


@pytest.mark.parametrize("kind", ["missing", "empty", "twice"])
def test_a_folder_that_is_no_run_is_refused(kind: str, tmp_path: Path, run_dir: Path) -> None:
    folders = {"missing": "nowhere", "empty": "", "twice": "one"}
    said = {"missing": "is no folder", "empty": "is no run directory", "twice": "twice"}
    given = [str(tmp_path / folders[kind])]
    with pytest.raises(ConfigError, match=said[kind]):
        load_runs([*given, str(run_dir)] if kind == "twice" else given)
