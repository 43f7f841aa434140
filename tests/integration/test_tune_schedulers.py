"""Schedulers that pause trials and start others for them, on a real Ray: population-based training, HyperBand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from disttrain.config import load_config
from disttrain.tune.journal import read_journal
from disttrain.tune.ray_trial import kept_checkpoint

from .commands import DISTTRAIN, DISTTRAIN_ANEW, finish, start
from .searches import LIMIT_S, check_nothing_left, history, write_search
from .slurm_jobs import weights

pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'disttrain[tune]'")

CONFIG = """
model: {name: "rings:network"}
data: {name: "rings:points", loader_workers: 0, val_fraction: 0.2}
batch: {global_batch_size: 32}
optim: {name: sgd, schedule: constant}
train: {epochs: 4}
"""
LR = (1.0e-6, 0.3)
SEARCH = f"space: {{optim.lr: {{loguniform: [{LR[0]}, {LR[1]}]}}}}\nmetric: loss\ntrials: 4\n"
SEARCH += "resources: {cpus_per_worker: 0.5}\n"

pytestmark = pytest.mark.long


def search(folder: Path, scheduler: str, *options: str) -> list[dict[str, Any]]:
    """The events of a search that has run to its end."""
    write_search(folder, SEARCH + scheduler, CONFIG)
    command = [*DISTTRAIN_ANEW, "tune", "config.yaml", "search.yaml", "--output", "out", *options]
    ended = finish(start(command, folder, {"DISTTRAIN_TEST_FOLDER": str(folder)}), LIMIT_S)
    assert ended.code == 0, ended.err
    check_nothing_left(folder)
    return read_journal(folder / "out/journal.jsonl")


def test_a_bad_trial_goes_on_with_the_weights_of_a_better_one_and_settings_beside_its_own(tmp_path: Path) -> None:
    events = search(tmp_path, "scheduler: {name: pbt, perturb_epochs: 1, quantile: 0.5}\n")
    values: dict[int, dict[str, Any]] = {}
    reports: dict[int, dict[int, float]] = {}
    latest: dict[int, float] = {}
    copies = []
    for one in events:
        if one["event"] == "point":
            values[one["trial"]] = one["values"]
        elif one["event"] == "report":
            reports.setdefault(one["trial"], {})[one["epoch"]] = latest[one["trial"]] = one["value"]
        elif one["event"] == "copy":
            trial, parent, lr = one["trial"], one["parent"], one["values"]["optim.lr"]
            assert reports[parent][one["epoch"]] < latest[trial]  # a loss
            ratio = lr / values[parent]["optim.lr"]
            assert lr != values[parent]["optim.lr"] or lr in LR
            assert LR[0] <= lr <= LR[1]
            moved = [event for event in events if event["event"] == "moved"]
            assert not moved  # back to the folder that it has left
            copies.append((one, ratio))
            values[trial] = one["values"]
    assert copies
    assert any(ratio == pytest.approx(0.8, rel=1e-4) or ratio == pytest.approx(1.2, rel=1e-4) for _, ratio in copies)
    trials = history(tmp_path).trials
    assert {one.state for one in trials.values()} == {"finished"}
    last = next(one for one, _ in reversed(copies) if trials[one["trial"]].folder == one["folder"])
    run_dir, checkpoint = tmp_path / "out" / last["folder"], tmp_path / "out" / last["checkpoint"]
    assert load_config(run_dir / "config.yaml").optim.lr == last["values"]["optim.lr"]
    manifest = json.loads((run_dir / "manifest.json").read_text())
    parent_dir = checkpoint.parents[1]
    assert checkpoint == kept_checkpoint(parent_dir, last["epoch"])
    assert manifest["starts"][0]["first_step"] == last["epoch"] * 7  # of 205 samples
    # The weights are those of the better trial: whoever goes on from its checkpoint with these settings has the same.
    words = ["train", str(run_dir / "config.yaml"), "--run-dir", "again", "--resume", str(checkpoint), "--quiet"]
    again = finish(start([*DISTTRAIN, *words], tmp_path), LIMIT_S)
    assert again.code == 0, again.err
    assert weights(tmp_path / "again") == weights(run_dir)


def test_hyperband_lets_the_better_half_of_a_bracket_go_on(tmp_path: Path) -> None:
    # Of Ray's brackets the first has 3 trials, which it lets run; of the 3 of the second it stops some after 2 epochs.
    events = search(tmp_path, "scheduler: {name: hyperband, reduction_factor: 2}\n", "--trials", "6")
    trials = history(tmp_path).trials
    states = [one.state for one in trials.values()]
    assert states.count("finished") >= 1
    assert states.count("stopped") >= 1
    assert set(states) == {"finished", "stopped"}
    assert any(one["event"] == "pause" for one in events)  # it waits for the others of its bracket
    first = {number: one.reports[0].value for number, one in trials.items()}
    stopped = [first[number] for number, one in trials.items() if one.state == "stopped" and one.epoch == 1]
    went_on = [first[number] for number, one in trials.items() if one.epoch > 1]
    assert not stopped or min(stopped) >= min(went_on)
    for number, one in trials.items():
        if one.state == "finished":
            words = ["train", f"out/trials/{number:04d}/config.yaml", "--run-dir", f"again_{number}", "--quiet"]
            again = finish(start([*DISTTRAIN, *words], tmp_path), LIMIT_S)
            assert again.code == 0, again.err
            assert weights(tmp_path / f"again_{number}") == weights(tmp_path / f"out/trials/{number:04d}")
