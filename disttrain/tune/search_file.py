"""What a search is: the second file of `disttrain tune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from disttrain.config.explain import explain
from disttrain.config.plain import plain_values
from disttrain.config.sections import Count, NonNegative, NonNegativeInt, Positive, Section
from disttrain.config.text import read_yaml
from disttrain.errors import ConfigError
from disttrain.files import user_path

SchedulerName = Literal["asha", "hyperband", "median", "pbt", "pb2", "none"]


class SchedulerSettings(Section):
    """Who decides which trials end early."""

    name: SchedulerName = "asha"
    """`asha` compares a trial with those before it as soon as it reports; `hyperband` waits for all of a bracket;
    `median` stops what is worse than the median; `pbt` copies good trials over bad ones and changes their settings;
    `pb2` does so by what settings have brought so far; `none` lets every trial train to its end."""
    grace_epochs: Count = 1
    """No trial is stopped before it has trained so many epochs."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """`asha`, `hyperband`: of so many trials one goes on to the next rung, which is so many times as far."""
    brackets: Count = 1
    """`asha`: trials are dealt out to so many ladders, the first rung of each further than that before."""
    min_trials: Count = 3
    """`median`: nothing is stopped before so many other trials have come as far."""
    perturb_epochs: Count = 2
    """`pbt`, `pb2`: epochs between two looks at whether a trial is to go on as a copy of a better one."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """`pbt`, `pb2`: the share of trials that counts as good, and as bad."""


class SearcherSettings(Section):
    """Who draws the points."""

    name: Literal["random", "grid", "optuna"] = "random"
    """`random`; `grid`: all combinations of a space of lists; `optuna`: its TPE sampler, from what was found so far."""
    startup_trials: Count = 10
    """`optuna`: so many points are drawn at random first."""


class ResourceSettings(Section):
    """What one worker of a trial has."""

    cpus_per_worker: Positive = 1.0
    """CPUs. Less than 1 lets workers share one; whole ones are threads (`train.cpu_threads`)."""
    gpus_per_worker: NonNegative = 0.0
    """GPUs: whole ones, or a part of one that trials with one worker share. 0: trials train on the CPU."""


class StopSettings(Section):
    """When the search as a whole ends before all its trials have."""

    hours: Positive | None = None
    """So long after its start or its last resumption."""
    target: float | None = None
    """As soon as a trial has finished with at least (`mode: min`: at most) this."""
    plateau_trials: Count | None = None
    """As soon as so many trials have ended since the last one that was the best so far."""


class SearchFile(Section):
    """A whole search."""

    space: dict[str, Any]
    """Fields of the config, each with its range: see `domains.parse_domain`."""
    metric: Literal["accuracy", "loss"] = "accuracy"
    """The figure of the validation split that is to become good."""
    mode: Literal["max", "min"] | None = None
    """Whether the metric is to be large or small. Default: as its name says."""
    trials: Count | None = None
    """How many points are tried. Default: 20; for a grid all of them."""
    workers_per_trial: Count = 1
    """Ranks of each trial."""
    concurrency: Count | None = None
    """Most trials at a time. Default: as many as there is room for."""
    seeds: Count = 1
    """Each point is trained with so many seeds at the same time; its objective is the mean."""
    seed: NonNegativeInt = 0
    """Seed of what is drawn."""
    scheduler: SchedulerSettings = SchedulerSettings()
    searcher: SearcherSettings = SearcherSettings()
    resources: ResourceSettings = ResourceSettings()
    stop: StopSettings = StopSettings()

    @property
    def maximize(self) -> bool:
        """Whether larger is better."""
        return (self.mode or ("max" if self.metric == "accuracy" else "min")) == "max"


def load_search(path: str | Path, **options: Any) -> SearchFile:
    """The search in a YAML file, with those options that are not None in the place of its fields.

    Raises ConfigError. The space is only read, not understood: that is `parse_space`.
    """
    path = user_path(path)
    return build_search(read_yaml(path, "search file"), str(path), **options)


def build_search(values: Any, where: str = "search", **options: Any) -> SearchFile:
    """A checked SearchFile from nested mappings. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where} must be a mapping with the keys {', '.join(SearchFile.model_fields)}, got {values!r}."
        )
    tree = {**plain_values(values), **{name: one for name, one in options.items() if one is not None}}
    for name in ("scheduler", "searcher"):
        if isinstance(tree.get(name), str):
            tree[name] = {"name": tree[name]}
    if isinstance(tree.get("searcher"), Mapping) and tree["searcher"].get("name") == "bohb":
        raise ConfigError(
            f"{where}: searcher=bohb: the packages that Ray's BOHB needs are no longer maintained (hpbandster's last "
            "release is of 2018). Use scheduler: hyperband or asha with searcher: optuna, whose sampler learns alike."
        )
    try:
        search = SearchFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            f"{where}: " + "; ".join(explain(one, SearchFile, "key of the search") for one in error.errors())
        ) from None
    _check(search)
    return search


def _check(search: SearchFile) -> None:
    workers, gpus = search.workers_per_trial, search.resources.gpus_per_worker
    if gpus > 0 and gpus != int(gpus) and (gpus > 1 or workers > 1):
        raise ConfigError(
            f"resources.gpus_per_worker={gpus:g} with workers_per_trial={workers}: a part of a GPU is for trials with "
            "one worker, since two ranks on one GPU cannot exchange through NCCL. Use 1, or workers_per_trial=1."
        )
    if search.mode == ("min" if search.metric == "accuracy" else "max"):
        raise ConfigError(f"mode={search.mode} with metric={search.metric}: that looks for the worst. Leave mode out.")
    _check_scheduler(search)


def _check_scheduler(search: SearchFile) -> None:
    name = search.scheduler.name
    if name in ("pbt", "pb2", "hyperband") and search.concurrency is not None:
        raise ConfigError(
            f"concurrency={search.concurrency} with scheduler {name}: it pauses trials and starts others for them, as "
            "many at a time as there is room for. Leave concurrency out."
        )
    if name not in ("pbt", "pb2"):
        return
    if search.seeds > 1:
        raise ConfigError(f"seeds={search.seeds} with scheduler {name}: it copies single runs. Use 1.")
    for field, raw in search.space.items():
        if field not in _CHANGES_ON_THE_WAY:
            raise ConfigError(
                f"space {field} with scheduler {name}: a copy goes on in the middle of a training, where this cannot "
                f"change. These can: {', '.join(_CHANGES_ON_THE_WAY)}."
            )
        if isinstance(raw, Mapping) and "when" in raw:
            raise ConfigError(f"space {field}: when, with scheduler {name}: all trials have the same fields there.")
        if name == "pb2" and not (isinstance(raw, Mapping) and set(raw) & {"uniform", "loguniform"}):
            raise ConfigError(f"space {field} with scheduler pb2: it chooses in ranges. Use uniform or loguniform.")


_CHANGES_ON_THE_WAY = ("data.brightness", "data.contrast", "data.horizontal_flip", "data.quarter_turns",
                       "data.shift_px", "data.vertical_flip", "data.zoom", "model.dropout", "optim.beta1",
                       "optim.beta2", "optim.clip_norm", "optim.final_lr_fraction", "optim.lr", "optim.momentum",
                       "optim.warmup_fraction", "optim.weight_decay", "train.label_smoothing")  # fmt: skip
