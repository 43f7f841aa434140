"""`disttrain tune` on a real Ray: searches that are killed, interrupted and resumed, and trials that are repeated."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from disttrain.config import load_config
from disttrain.tune.journal import read_journal

from .commands import DISTTRAIN, DISTTRAIN_ANEW, Outcome, finish, run, start
from .searches import LIMIT_S, check_nothing_left, history, processes_of, reported, until

pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'disttrain[tune]'")

CONFIG = """
model: {name: planesnet_cnn}
data: {name: synthetic_planes, kwargs: {count: 1200, seed: 0}, val_fraction: 0.2}
batch: {global_batch_size: 64}
optim: {name: sgd, lr: 0.02, nesterov: false}
train: {epochs: 6}
"""
# Four trials, of which one is refused by the config: no Nesterov momentum without momentum.
SEARCH = """
space:
  optim.momentum: {grid: [0.9, 0.0]}
  optim.nesterov: {grid: [true, false]}
searcher: grid
scheduler: none
workers_per_trial: 2
resources: {cpus_per_worker: 0.5}
concurrency: 1
"""


def tune_command(*options: str) -> list[str]:
    return [*DISTTRAIN_ANEW, "tune", "config.yaml", "search.yaml", "--output", "out", *options]


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    return start(tune_command(*options), folder, {"DISTTRAIN_TEST_FOLDER": str(folder)})


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search through all that can happen to it: a lost rank, a driver killed with -9, Ray's files damaged, a lost
    worker, Ctrl-C, a second driver; each time resumed. What was seen on the way."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "search.yaml").write_text(SEARCH)
    seen: dict[str, Any] = {"folder": folder}

    driver = begin(folder)
    until(lambda: reported(folder, 0, 1), "first report", driver)
    seen["lost rank"] = kill_one(folder, "run_module.py disttrain train", "trials/0000")
    seen["second driver"] = run(tune_command("--resume"), folder)
    saved = folder / "out/trials/0001/checkpoints/latest"
    until(lambda: reported(folder, 1, 1) and saved.exists(), "checkpoint of the second trial", driver)
    driver.kill()  # -9
    driver.communicate()
    check_nothing_left(folder)
    with (folder / "out/journal.jsonl").open("a") as journal:
        journal.write('{"time": 1.0, "event": "repo')  # as a kill in the middle of a write would leave it
    seen["after the kill"] = before = history(folder)
    seen["without resume"] = run(tune_command(), folder)

    driver = begin(folder, "--resume")
    until(lambda: reported(folder, 1, before.trials[1].epoch + 1), "report of the second trial", driver)
    seen["cut off"] = damage_files_of_ray(folder, 0.5)
    seen["lost worker"] = kill_one(folder, "ray::TrialWorker", "")
    until(lambda: history(folder).trials[1].attempt == 3, "another start of the second trial", driver)
    seen["emptied"] = damage_files_of_ray(folder, 0.0)
    until(lambda: reported(folder, 3, 1), "report of the last trial", driver)
    driver.send_signal(signal.SIGINT)
    seen["interrupted"] = finish(driver, LIMIT_S)
    check_nothing_left(folder)
    seen["after Ctrl-C"] = history(folder)

    seen["resumed"] = finish(begin(folder, "--resume", "--json"), LIMIT_S)
    check_nothing_left(folder)
    seen["history"] = history(folder)
    return seen


def kill_one(folder: Path, *words: str) -> int:
    """The highest process id: of an agent and its ranks, a rank."""
    pid = max(pid for pid, line in processes_of(folder).items() if all(word in line for word in words))
    os.kill(pid, signal.SIGKILL)
    return pid


def damage_files_of_ray(folder: Path, kept: float) -> set[str]:
    """Cut off all that Ray has written on this machine for a search that runs; the files' names."""
    (session,) = {Path(line.split()[-1]) for line in processes_of(folder).values() if "disttrain.tune.reaper" in line}
    paths = [one for one in session.rglob("*") if one.is_file() and not one.is_symlink() and one.name != "token"]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # Ray has just removed it
            os.truncate(path, int(path.stat().st_size * kept))
    return {one.name for one in paths}


def test_damaged_files_of_ray_cost_nothing(searched: dict[str, Any]) -> None:
    for step in ("cut off", "emptied"):
        assert any(name.startswith("experiment_state") for name in searched[step]), searched[step]
        assert len(searched[step]) > 10
    assert searched["history"].trials[1].attempt == 3  # as without the damage


def test_every_point_of_the_grid_ends_once(searched: dict[str, Any]) -> None:
    trials = searched["history"].trials
    assert [one.state for one in trials.values()] == ["finished", "finished", "failed", "finished"]
    events = read_journal(searched["folder"] / "out/journal.jsonl")
    assert Counter(one["trial"] for one in events if one["event"] == "end") == {0: 1, 1: 1, 2: 1, 3: 1}
    for number in (0, 1, 3):
        assert [one.epoch for one in trials[number].reports] == [1, 2, 3, 4, 5, 6]


def test_a_lost_rank_costs_nothing_but_time(searched: dict[str, Any]) -> None:
    run_dir = searched["folder"] / "out/trials/0000"
    assert searched["history"].trials[0].attempt == 1
    assert "restart 1 of 2" in (run_dir / "train.log").read_text()


def test_a_trial_that_the_config_refuses_is_recorded_with_its_reason(searched: dict[str, Any]) -> None:
    failed = searched["history"].trials[2]
    assert failed.exit_code == 2
    assert "optim.nesterov=true needs optim.momentum > 0" in failed.reason


def test_after_a_kill_finished_trials_are_not_run_again_and_others_go_on(searched: dict[str, Any]) -> None:
    killed, trials = searched["after the kill"], searched["history"].trials
    assert killed.trials[0].state == "finished"
    assert killed.trials[1].state == "running"
    assert trials[0].attempt == 1
    assert trials[1].attempt == 3  # killed with its driver, and with its worker
    manifest = json.loads((searched["folder"] / "out/trials/0001/manifest.json").read_text())
    assert [one["first_step"] > 0 for one in manifest["starts"]] == [False, True, True]


def test_a_second_driver_and_a_second_search_are_refused(searched: dict[str, Any]) -> None:
    second, without = searched["second driver"], searched["without resume"]
    assert (second.code, without.code) == (2, 2)
    assert "is in use: process" in second.message
    assert "holds a search already. Go on with it by --resume" in without.message


def test_ctrl_c_saves_says_how_to_go_on_and_leaves_nothing(searched: dict[str, Any]) -> None:
    ended: Outcome = searched["interrupted"]
    assert ended.code == 130
    assert "--resume goes on" in ended.err
    assert searched["after Ctrl-C"].trials[3].state == "waiting"
    assert (searched["folder"] / "out/trials/0003/checkpoints/latest").exists()


def test_no_trial_looks_at_the_test_split(searched: dict[str, Any]) -> None:
    for number in (0, 1, 3):
        result = json.loads((searched["folder"] / f"out/trials/{number:04d}/result.json").read_text())
        assert (result["test"], result["world_size"]) == (None, 2)


def test_the_result_is_printed_and_lies_in_the_files(searched: dict[str, Any]) -> None:
    ended: Outcome = searched["resumed"]
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    best = searched["history"].best
    assert (told["best"], told["value"]) == (best.number, best.value)
    assert told["trials"] == {"finished": 3, "stopped": 0, "failed": 1}
    out = searched["folder"] / "out"
    assert load_config(out / "best.yaml").train.test_at_end
    assert len((out / "trials.csv").read_text().splitlines()) == 5
    assert "<svg" in (out / "report.html").read_text()


def test_a_trial_repeated_outside_the_search_has_the_same_bits(searched: dict[str, Any]) -> None:
    folder, best = searched["folder"], searched["history"].best.number
    other = next(number for number in (1, 0, 3) if number != best)  # the first one was killed and resumed
    for number, config, is_tested in (
        (other, f"out/trials/{other:04d}/config.yaml", False),
        (best, "out/best.yaml", True),
    ):
        words = [*DISTTRAIN, "train", config, "--run-dir", f"again_{number}", "--json", "--quiet"]
        done = finish(start(words, folder), LIMIT_S)
        assert done.code == 0, done.err
        again = json.loads(done.out)
        result = json.loads((folder / f"out/trials/{number:04d}/result.json").read_text())
        assert again["weights_sha256"] == result["weights_sha256"]
        assert (again["test"] is not None) == is_tested


def test_without_ray_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "search.yaml").write_text(SEARCH)
    code = (
        "import sys; sys.modules['ray'] = None; from disttrain.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run([DISTTRAIN_ANEW[0], "-c", code, *tune_command()[len(DISTTRAIN_ANEW) :]], tmp_path)
    assert done.code == 2
    assert "disttrain tune needs Ray, which is not installed: pip install 'disttrain[tune]'" in done.message
    assert not (tmp_path / "out").exists()


def test_data_without_a_validation_split_is_refused_before_ray_starts(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "search.yaml").write_text(SEARCH)
    done = run(tune_command("data.val_fraction=0"), tmp_path)
    assert done.code == 2
    assert "leaves no validation split" in done.message
    assert "Ray" not in done.err
