"""`fit`: train the user's own network on the user's own data, alone or under any launcher, without a config file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from disttrain.comm.rank_session import rank_session
from disttrain.config import build_config
from disttrain.data.base import Dataset, MapDataset
from disttrain.data.open import dataset_from_maps
from disttrain.errors import ConfigError
from disttrain.files import user_path
from disttrain.launch.env import NodeEnv, RankEnv, resolve
from disttrain.models.model_dir import WEIGHTS
from disttrain.optim.loss import UserLoss
from disttrain.run_dir import MODEL
from disttrain.system.streams import fill_closed_streams
from disttrain.training.prepare import Request
from disttrain.training.run import run_training


def fit(
    model: nn.Module,
    dataset: MapDataset,
    *,
    test_dataset: MapDataset | None = None,
    loss: UserLoss | None = None,
    run_dir: str | Path = "runs/fit",
    resume: str = "never",
    quiet: bool = False,
    **sections: Mapping[str, Any],
) -> dict[str, Any]:
    """Train `model` in place on `dataset` and return what `result.json` holds.

    Alone it trains in this process; under torchrun, mpirun, srun or a PyTorchJob each process joins as one rank.

    Args:
        model: any module. Outputs [n, classes] that the loss takes as class scores are counted for accuracy.
        dataset: map-style, items (input, target); `classes`, if it has any, names the classes. Inputs and targets may
            be dicts or tuples of tensors; docs/contracts.md says what is taken.
        test_dataset: evaluated at the end; each sample once, over all ranks.
        loss: (outputs, targets) -> one loss per sample, or their mean or sum. Default: cross-entropy.
        run_dir: where metrics, logs and the trained weights go.
        resume: `never` starts anew and moves aside what `run_dir` holds; `auto` goes on with it.
        sections: the config's sections as mappings, e.g. `optim={"lr": 0.1}, train={"epochs": 3}`.
    Raises DisttrainError, on the first rank that fails; the other ranks leave quietly with the same exit code.
    """
    fill_closed_streams()
    check_arguments(model, loss, run_dir, resume)
    config = build_config(sections)
    if loss is not None and config.train.label_smoothing:
        raise ConfigError(
            f"train.label_smoothing={config.train.label_smoothing:g} has no effect on a loss of your own. Smooth the "
            "labels there, e.g. cross_entropy(..., label_smoothing=0.1), or leave it out."
        )
    env = resolve(os.environ) or RankEnv.alone()
    if isinstance(env, NodeEnv):
        raise ConfigError(
            "these PET_* variables describe a node, not a rank: start the script through torchrun, which reads them."
        )

    def open_dataset() -> Dataset:
        return dataset_from_maps(dataset, test_dataset, config.data.model_copy(update={"test_fraction": 0.0}))

    folder = user_path(run_dir)
    request = Request(config, folder, resume, quiet, model, open_dataset, loss)
    with rank_session(env, config.comm.timeout_s, quiet, in_library=True) as session:
        result = run_training(request, session)
        model.load_state_dict(load_file(folder / MODEL / WEIGHTS))
        return result


def check_arguments(model: Any, loss: Any, run_dir: Any = "", resume: Any = "") -> None:
    """Raise ConfigError where an argument is of another kind than `fit` takes, and where `fit` is called within a
    context in which nothing could be trained, or not as the config says."""
    for name, value, expected in (("run_dir", run_dir, "a path"), ("resume", resume, "'never', 'auto' or a path")):
        if not isinstance(value, str | os.PathLike):
            raise ConfigError(f"{name}={value!r} is {_kind(value)}: expected {expected}.")
    if not torch.is_grad_enabled():
        mode = "torch.inference_mode()" if torch.is_inference_mode_enabled() else "torch.no_grad()"
        raise ConfigError(f"fit is called within {mode}, in which there are no gradients: call it outside of that.")
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        raise ConfigError(
            "fit is called within torch.autocast, and train.precision says how it computes: call it outside of that, "
            "with train={'precision': 'bf16'} if you mean that."
        )
    if not isinstance(model, nn.Module):
        hint = f" Call it: fit({model.__name__}(), ...)." if isinstance(model, type) else ""
        raise ConfigError(f"model is {_kind(model)}, not a torch.nn.Module.{hint}")
    if loss is not None and (not callable(loss) or (isinstance(loss, type) and issubclass(loss, nn.Module))):
        hint = f" Call it: loss={loss.__name__}()." if isinstance(loss, type) else ""
        raise ConfigError(f"loss is {_kind(loss)}: expected a function (outputs, targets) -> losses.{hint}")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
