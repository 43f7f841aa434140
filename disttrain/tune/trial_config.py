"""The config of a trial, and the files that hold it: whoever trains from them outside the search gets the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from disttrain.config import Config, build_config, render_yaml
from disttrain.errors import ConfigError
from disttrain.files import user_path, write_atomically
from disttrain.run_dir import CONFIG
from disttrain.tune.history import History, Trial
from disttrain.tune.search_file import SearchFile
from disttrain.tune.space import with_values

BEST, TRIALS = "best.yaml", "trials"


def base_config(config: Config, search: SearchFile) -> Config:
    """What all trials have in common: the user's config, and what the search decides for each of them.

    Everything on which the bits of a training depend is a field of it. Raises ConfigError for a config that cannot be
    searched over.
    """
    _check_searchable(config, search)
    resources = search.resources
    values: dict[str, Any] = {
        "train.workers": search.workers_per_trial,
        "train.cpu_threads": config.train.cpu_threads or max(1, int(resources.cpus_per_worker)),
        "train.test_at_end": False,
        "train.device": "cuda" if resources.gpus_per_worker else "cpu",
    }
    for field, path in (("data.path", config.data.path), ("data.cache_dir", config.data.cache_dir)):
        if path is not None:  # trials, and whoever trains from best.yaml, may have another working directory
            values[field] = str(user_path(path).absolute())
    return with_values(config, values)


def _check_searchable(config: Config, search: SearchFile) -> None:
    train, gpus = config.train, search.resources.gpus_per_worker
    if train.max_steps is not None:
        raise ConfigError(
            f"train.max_steps={train.max_steps}: trials are compared by epochs. Set train.epochs instead."
        )
    if train.eval_every_epochs != 1:
        raise ConfigError(
            f"train.eval_every_epochs={train.eval_every_epochs}: trials are compared after each epoch. Use 1."
        )
    if train.device == "cuda" and not gpus:
        raise ConfigError(
            "train.device=cuda, but trials have no GPU. Set resources: {gpus_per_worker: 1} in the search."
        )
    if train.device == "cpu" and gpus:
        raise ConfigError(f"train.device=cpu, but resources.gpus_per_worker={gpus:g}. Leave one of them out.")
    if search.scheduler.name not in ("none",) and search.scheduler.grace_epochs > train.epochs:
        raise ConfigError(
            f"scheduler.grace_epochs={search.scheduler.grace_epochs} with train.epochs={train.epochs}: no trial would "
            "ever be stopped. Use fewer, or scheduler: none."
        )


def run_config(history: History, trial: Trial, seed: int) -> Config:
    """The config of the run with seed number `seed` of a trial. Raises ConfigError where its values contradict."""
    base = build_config(history.starts[trial.start]["base"])
    return with_values(base, {**trial.values, "train.seed": base.train.seed + seed})


def run_dirs(output: Path, trial: Trial, seeds: int) -> list[Path]:
    """The run directories of a trial: its own folder or, with several seeds, one in it for each."""
    folder = output / (trial.folder or f"{TRIALS}/{trial.name}")
    return [folder] if seeds == 1 else [folder / f"seed_{seed}" for seed in range(seeds)]


def write_run_config(run_dir: Path, config: Config) -> None:
    """`config.yaml`, as the training itself will write it. One that is there stays. Raises OSError."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / CONFIG).exists():
        write_atomically(run_dir / CONFIG, render_yaml(config), durable=True)


def write_best(output: Path, history: History, search: SearchFile) -> Path | None:
    """`best.yaml`: the best trial's config, to be trained and tested; None while there is no trial with a figure."""
    trial = history.best
    if trial is None:
        return None
    config = with_values(run_config(history, trial, 0), {"train.test_at_end": True})
    lines = [
        f"The best of {len(history.trials)} trials: {trial.name} of the search in {output}.",
        f"{_figure(search, trial)}; every setting that was searched:",
        *(f"  {field}: {value!r}" for field, value in trial.values.items()),
        f"Train it, with the test split evaluated at the end:  disttrain train {output / BEST}",
        *_seeds_and_copies(search, trial),
    ]
    path = output / BEST
    write_atomically(path, "".join(f"# {line}\n" for line in lines) + render_yaml(config), durable=True)
    return path


def _figure(search: SearchFile, trial: Trial) -> str:
    mean = f", the mean of {search.seeds} seeds" if search.seeds > 1 else ""
    return f"Validation {search.metric} {trial.value:.6g} after epoch {trial.epoch} ({trial.state}){mean}"


def _seeds_and_copies(search: SearchFile, trial: Trial) -> list[str]:
    lines = []
    if search.seeds > 1:
        lines.append("This is the config of the first seed; the others differ in train.seed.")
    if trial.parent is not None:
        lines.append(
            "Its weights came from other trials on the way (population-based training): these settings are its last "
            "ones, and training from them alone is another training."
        )
    return lines


def plain_dump(config: Config) -> Mapping[str, Any]:
    """The config as the journal holds it."""
    return config.model_dump(mode="json")
