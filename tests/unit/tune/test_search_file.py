"""The search file: its keys, and what goes with the config and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from disttrain.config import Config, build_config, load_config
from disttrain.errors import ConfigError
from disttrain.tune.search_file import SearchFile, build_search, load_search
from disttrain.tune.space import parse_space
from disttrain.tune.trial_config import base_config

SPACE: dict[str, Any] = {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}}
REPOSITORY = Path(__file__).resolve().parents[3]


def refused(**keys: Any) -> str:
    with pytest.raises(ConfigError) as error:
        build_search({**SPACE, **keys})
    return str(error.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"schedular": "asha"}, "unknown key of the search: 'schedular'. Did you mean 'scheduler'?"),
        ({"scheduler": "ahsa"}, "Did you mean 'asha'?"),
        ({"scheduler": {"grace_epoch": 1}}, "unknown field in scheduler: 'grace_epoch'. Did you mean 'grace_epochs'?"),
        ({"metric": "f1"}, "metric='f1': input should be 'accuracy' or 'loss'"),
        ({"metric": "loss", "mode": "max"}, "that looks for the worst"),
        ({"trials": 0}, "trials=0: input should be greater than or equal to 1"),
        ({"scheduler": "pbt", "space": {"batch.global_batch_size": {"choice": [64]}}}, "this cannot change"),
        ({"scheduler": "hyperband", "concurrency": 2}, "Leave concurrency out"),
        (
            {"workers_per_trial": 2, "resources": {"gpus_per_worker": 0.5}},
            "a part of a GPU is for trials with one worker",
        ),
        ({"resources": {"gpus_per_worker": 1.5}}, "a part of a GPU"),
        ({"scheduler": "pbt", "seeds": 2}, "it copies single runs"),
    ],
)
def test_a_mistake_is_refused_with_its_key_and_rule(keys: dict[str, Any], expected: str) -> None:
    assert expected in refused(**keys)


def test_a_file_without_a_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="space is missing"):
        build_search({"trials": 3})


def test_options_take_the_place_of_the_files_keys(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("space: {optim.lr: {uniform: [0.1, 0.2]}}\ntrials: 5\nscheduler: none\n")
    search = load_search(file, trials=7, concurrency=None)
    assert (search.trials, search.concurrency, search.scheduler.name) == (7, None, "none")


def test_accuracy_is_to_be_large_and_loss_small() -> None:
    assert build_search(SPACE).maximize
    assert not build_search({**SPACE, "metric": "loss"}).maximize


@pytest.mark.parametrize(
    ("config", "keys", "expected"),
    [
        ({"train": {"max_steps": 5}}, {}, "trials are compared by epochs"),
        ({"train": {"eval_every_epochs": 0}}, {}, "trials are compared after each epoch"),
        ({"train": {"device": "cuda"}}, {}, "gpus_per_worker: 1"),
        ({"train": {"device": "cpu"}}, {"resources": {"gpus_per_worker": 1}}, "Leave one of them out"),
        ({"train": {"epochs": 2}}, {"scheduler": {"grace_epochs": 3}}, "no trial would ever be stopped"),
    ],
)
def test_a_config_that_cannot_be_searched_over_is_refused(
    config: dict[str, Any], keys: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        base_config(build_config(config), build_search({**SPACE, **keys}))
    assert expected in str(error.value)


def test_all_that_the_bits_of_a_trial_depend_on_is_in_its_config() -> None:
    keys = {**SPACE, "workers_per_trial": 4, "resources": {"cpus_per_worker": 2}}
    train = base_config(build_config({"data": {"path": "chips"}}), build_search(keys)).train
    assert (train.workers, train.cpu_threads, train.device, train.test_at_end) == (4, 2, "cpu", False)


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = base_config(build_config({"data": {"path": "chips"}}), build_search(SPACE))
    assert base.data.path == str(tmp_path / "chips")


@pytest.mark.parametrize("name", ["planesnet", "synthetic_planes"])
def test_the_shipped_search_fits_the_shipped_configs(name: str) -> None:
    search = load_search(REPOSITORY / "configs/search/asha.yaml")
    config = load_config(REPOSITORY / f"configs/{name}.yaml")
    assert parse_space(search.space, config).domains.keys() == search.space.keys()
    assert isinstance(base_config(config, search), Config)
    assert isinstance(search, SearchFile)
