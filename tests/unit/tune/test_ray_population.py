"""What a copy's settings are in population-based training, and what is known of them after a resume."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from disttrain.config import Config
from disttrain.errors import ConfigError
from disttrain.tune.history import History
from disttrain.tune.search_file import build_search
from disttrain.tune.space import parse_space

pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'disttrain[tune]'")

from ray.tune.experiment import Trial as RayTrial

from disttrain.tune.ray_schedulers import build_scheduler
from disttrain.tune.ray_trial import EPOCH, VALUE

CONTROLLER = SimpleNamespace(search_alg=None)
SPACE = {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "optim.weight_decay": {"uniform": [0.0, 0.2]}}


def member(number: int, lr: float, decay: float) -> Any:
    """A trial as Ray has it."""
    config = {"optim.lr": lr, "optim.weight_decay": decay, "task": "own"}
    return RayTrial("stub", config=config, trial_id=f"{number:04d}", evaluated_params={}, stub=True)


def scheduler_of(name: str, history: History, copies: list[Any]) -> Any:
    search = build_search({"space": SPACE, "scheduler": {"name": name, "perturb_epochs": 1, "quantile": 0.5}})

    def on_copy(*arguments: Any) -> Any:
        copies.append(arguments)
        return "copy's"

    return build_scheduler(search, 9, history, parse_space(SPACE, Config()), on_copy)


@pytest.mark.filterwarnings("ignore")  # of Ray's PB2 about its own process
@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_a_copy_has_settings_within_the_ranges_and_a_task_of_its_own(name: str) -> None:
    copies: list[Any] = []
    scheduler = scheduler_of(name, History(), copies)
    good, bad = member(0, lr=3e-2, decay=0.1), member(1, lr=2e-4, decay=0.19)
    for trial in (good, bad):
        scheduler.on_trial_add(CONTROLLER, trial)
    for epoch in (1, 2, 3):
        for trial, value in ((good, 0.8 + epoch / 100), (bad, 0.3)):
            result = {EPOCH: epoch, VALUE: value}
            scheduler._save_trial_state(scheduler._trial_state[trial], epoch, result, trial)
    for _ in range(3):
        config, _ = scheduler._get_new_config(bad, good)
        assert 1e-4 <= config["optim.lr"] <= 1e-1
        assert 0.0 <= config["optim.weight_decay"] <= 0.2
        assert config["task"] == "copy's"
        trial, parent, values, epoch, reported = copies[-1]
        assert (trial, parent, epoch, reported) == (1, 0, 3, (3, 0.3))
        assert values == {field: config[field] for field in SPACE}
        assert values != {field: good.config[field] for field in SPACE}


def test_pb2_knows_after_a_resume_what_it_knew_before() -> None:
    history = History()
    scheduler = scheduler_of("pb2", history, [])
    members = [member(0, lr=3e-2, decay=0.1), member(1, lr=2e-4, decay=0.05)]
    for number, one in enumerate(members):
        values = {field: one.config[field] for field in SPACE}
        history.apply({"event": "point", "time": 0.0, "trial": number, "values": values})
        scheduler.on_trial_add(CONTROLLER, one)
    copied = {"optim.lr": 1e-2, "optim.weight_decay": 0.2}
    for epoch in (1, 2, 3):
        for number, one in enumerate(members):
            if (number, epoch) == (1, 3):
                event = {"event": "copy", "trial": 1, "parent": 0, "values": copied, "epoch": 2}
                history.apply({**event, "time": 1.0, "folder": "trials/0001.copy-1", "checkpoint": "x"})
                one.config.update(copied)
            value = 0.5 + epoch / 10 - number / 4
            history.apply({"event": "report", "time": 1.0, "trial": number, "epoch": epoch, "value": value})
            result = {EPOCH: epoch, VALUE: value}
            scheduler._save_trial_state(scheduler._trial_state[one], epoch, result, one)
    again = scheduler_of("pb2", history, [])
    order = ["Trial", "Time"]
    known, before = (one.data.sort_values(order).reset_index(drop=True) for one in (again, scheduler))
    assert known.astype({"Time": float}).equals(before.astype({"Time": float})[list(known.columns)])
    assert len(known) == 6


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"optim.lr": {"choice": [0.1, 0.2]}}, "pb2: it chooses in ranges. Use uniform or loguniform"),
        ({"batch.global_batch_size": {"randint": [8, 64]}}, "a copy goes on in the middle of a training"),
    ],
)
def test_pb2_refuses_a_space_that_it_cannot_choose_in(space: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_search({"space": space, "scheduler": "pb2"})


def test_bohb_is_refused_with_the_reason_and_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"last release is of 2018.*searcher: optuna"):
        build_search({"space": SPACE, "searcher": "bohb"})


def test_values_are_known_report_by_report() -> None:
    history = History()
    history.apply({"event": "point", "time": 0.0, "trial": 0, "values": {"optim.lr": 1}})
    history.apply({"event": "report", "time": 1.0, "trial": 0, "epoch": 1, "value": 0.5})
    copy = {"event": "copy", "time": 1.0, "trial": 0, "parent": 1, "epoch": 1, "folder": "a", "checkpoint": "b"}
    history.apply({**copy, "values": {"optim.lr": 2}})
    history.apply({"event": "report", "time": 2.0, "trial": 0, "epoch": 2, "value": 0.6})
    assert [history.trials[0].values_at(at) for at in (0, 1, 2)] == [{"optim.lr": 1}, {"optim.lr": 2}, {"optim.lr": 2}]
