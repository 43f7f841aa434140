"""One trial of everything before the first step: a few real samples through network, loss, backward and optimizer.

What does not fit shows here, on every rank alike, before a run directory is made and before anything is paid for. The
trial is made on a copy of the network, and leaves no trace in it or in any generator.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from disttrain.config import Config
from disttrain.data.base import Dataset
from disttrain.data.batch_plan import BatchPlan
from disttrain.data.pipeline import Samples
from disttrain.errors import ConfigError, DataError, DisttrainError
from disttrain.optim.ema import WeightAverage
from disttrain.optim.loss import LossSum, UserLoss, build_loss
from disttrain.optim.loss_contract import LossFinding, check_loss
from disttrain.optim.optimizer import build_optimizer
from disttrain.optim.precision import Precision
from disttrain.optim.step_undo import StepUndo
from disttrain.seed import generators_kept
from disttrain.tensor_tree import count_of, describe, detached, rows, to_device
from disttrain.training.micro_batches import describe_single, smallest_evaluated, smallest_trained
from disttrain.training.outputs import check_class_count, check_class_scores, check_rows
from disttrain.training.writable import check_loading, check_network

_TRAIN_SAMPLES, _HELD_OUT_SAMPLES = 4, 2


@dataclass(frozen=True)
class Trial:
    """What the trial is made with."""

    config: Config
    dataset: Dataset
    plan: BatchPlan
    samples: Samples
    device: torch.device
    loss: UserLoss | None
    is_object: bool = False
    """Whether the network was given as an object."""


def finish_lazy_layers(model: nn.Module, samples: Samples, ids: np.ndarray, device: torch.device) -> None:
    """Give layers such as LazyLinear their shapes, with one pass over some samples. Raises ConfigError."""
    parts = [*model.parameters(), *model.buffers()]
    if not any(is_lazy(part) for part in parts):
        return
    inputs, _ = samples.few(ids[:_HELD_OUT_SAMPLES])
    places = {part.device for part in parts}
    _forward(model.eval(), to_device(inputs, places.pop() if len(places) == 1 else device), "the network")
    model.train()


def try_out(trial: Trial, model: nn.Module) -> LossFinding:
    """What the loss is; raises ConfigError or DataError for what does not fit."""
    name = f"the network {type(model).__name__}" if trial.is_object else f"model.name={trial.config.model.name}"
    check_network(model, name)
    with generators_kept(), _apart(model, trial.device) as network:
        check_loading(network, name)
        finding = _try_loss(trial, network)
        for name in ("val", "test"):
            if len(ids := trial.dataset.splits[name]):
                _try_evaluation(trial, network, name, _chosen(ids, _HELD_OUT_SAMPLES), finding)
        _try_step(trial, network, finding)
    return finding


@contextlib.contextmanager
def _apart(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """A copy of the network on the device; where it cannot be copied itself, and its tensors put back afterwards."""
    try:
        network = copy.deepcopy(model).to(device)
    except Exception:  # what a network may hold that cannot be copied has no list
        network = model.to(device)
    weights = list(network.parameters())
    kept = [one.detach().clone() for one in weights] if network is model else []
    buffers = StepUndo(network)
    was_training = model.training
    try:
        yield network
    finally:
        with torch.no_grad():
            for one, before in zip(weights, kept, strict=False):
                one.copy_(before)
        buffers.undo()
        network.train(was_training)
        network.zero_grad(set_to_none=True)


def _chosen(ids: np.ndarray, count: int) -> np.ndarray:
    """The first, the last, and some between."""
    return ids[np.unique(np.linspace(0, len(ids) - 1, count).astype(int))]


def _train_ids(dataset: Dataset) -> np.ndarray:
    """Some training samples, of different classes where the labels are known."""
    ids = dataset.splits["train"]
    if dataset.labels is None:
        return _chosen(ids, _TRAIN_SAMPLES)
    _, first = np.unique(dataset.labels[ids], return_index=True)
    return np.unique(np.concatenate([ids[first[: _TRAIN_SAMPLES - 2]], _chosen(ids, _TRAIN_SAMPLES)]))[:_TRAIN_SAMPLES]


def _try_loss(trial: Trial, network: nn.Module) -> LossFinding:
    network.eval()
    inputs, targets = trial.samples.few(_train_ids(trial.dataset))
    outputs = detached(_forward(network, inputs, "the network"))
    check_rows(outputs, count_of(targets))
    if trial.loss is None:
        check_class_scores(outputs, targets, trial.dataset.class_names)
        check_class_count(trial.dataset.class_names, outputs)
        _limit(trial, outputs.shape[1])
        return LossFinding("sum", True)
    if isinstance(trial.loss, nn.Module) and any(one.requires_grad for one in trial.loss.parameters()):
        raise ConfigError(
            f"the loss {type(trial.loss).__name__} has weights of its own to train, and only the network's are "
            "trained. Make it a part of the network that returns what the loss needs."
        )
    finding = check_loss(trial.loss, outputs, targets)
    if finding.scores_classes:
        check_class_count(trial.dataset.class_names, outputs)
    if finding.scalar == "mean" and finding.scores_classes:
        _limit(trial, outputs.shape[1])
    return finding


def _limit(trial: Trial, classes: int) -> None:
    """From now on targets are class numbers; those that were loaded before are looked at again."""
    trial.samples.limit_targets(classes)
    trial.samples.few(_train_ids(trial.dataset))


def _forward(network: nn.Module, inputs: Any, what: str) -> Any:
    try:
        with torch.set_grad_enabled(network.training):
            return network(inputs)
    except DisttrainError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} does not take inputs {describe(inputs)}: {type(error).__name__}: {str(error).strip()} "
            "It must take any number of samples; let the dataset return the type and shape that the network expects."
        ) from error


def loss_sum_of(trial: Trial, finding: LossFinding, label_smoothing: float = 0.0) -> LossSum:
    """The loss as training or evaluation uses it."""
    return build_loss(label_smoothing, trial.loss, finding.scalar_is_sum)


def _try_evaluation(trial: Trial, network: nn.Module, split: str, ids: np.ndarray, finding: LossFinding) -> None:
    """The held-out samples too: they are used after all steps are paid for."""
    network.eval()
    batches = [ids]
    batch = trial.config.batch
    if smallest_evaluated(len(trial.dataset.splits[split]), trial.plan.world_size, batch) == 1:
        batches.append(ids[:1])
    for some in batches:
        inputs, targets = trial.samples.few(some)
        try:
            outputs = _forward(network, inputs, "the network, when evaluating,")
            check_rows(outputs, count_of(targets))
            loss_sum_of(trial, finding)(outputs, targets)
        except DataError:
            raise
        except Exception as error:
            alone = (
                f" alone (batch.eval_batch_size={batch.eval_batch_size} leaves one; use another)"
                if len(some) == 1
                else ""
            )
            raise ConfigError(
                f"the first sample of the {split} split cannot be evaluated{alone}: {error} Inputs are "
                f"{describe(inputs)}, targets {describe(targets)}."
            ) from error


def _try_step(trial: Trial, network: nn.Module, finding: LossFinding) -> None:
    """One step of the training, on the copy, and one on a single sample where the plan has such micro-batches."""
    config = trial.config
    ids = _train_ids(trial.dataset)
    optim = config.optim.model_copy(update={"zero_redundancy": False})
    network.train()
    inputs, targets = trial.samples.few(ids)
    try:
        precision = Precision(config.train.precision, trial.device)
        optimizer = build_optimizer(optim, network)
        _backward(trial, network, finding, precision, inputs, targets)
        _check_gradients(trial, network)
        norm = precision.clip(optimizer, config.optim.clip_norm)
        precision.step(optimizer, norm)
        if config.train.ema_decay:
            WeightAverage(network, config.train.ema_decay).update(0)
    except DisttrainError:
        raise
    except Exception as error:
        if len(ids) == 1 or "more than 1 value per channel" in str(error):
            raise ConfigError(describe_single(trial.plan, config, error)) from error
        raise ConfigError(
            f"a step of training on inputs {describe(inputs)} and targets {describe(targets)} raised "
            f"{type(error).__name__}: {str(error).strip()} The network must train with optim.name={optim.name} and "
            f"train.precision={config.train.precision}."
        ) from error
    if smallest_trained(trial.plan, config) > 1:
        return
    optimizer.zero_grad(set_to_none=True)
    try:
        _backward(trial, network, finding, precision, rows(inputs, slice(1)), rows(targets, slice(1)))
    except Exception as error:
        raise ConfigError(describe_single(trial.plan, config, error)) from error


def _backward(
    trial: Trial, network: nn.Module, finding: LossFinding, precision: Precision, inputs: Any, targets: Any
) -> None:
    with precision.autocast():
        outputs = network(inputs)
        check_rows(outputs, count_of(targets))
        loss = loss_sum_of(trial, finding, trial.config.train.label_smoothing)(outputs, targets)
    if not loss.requires_grad:
        raise ConfigError(
            "the loss does not depend on any trainable weight of the network: it was cut off by detach(), no_grad() or "
            "a conversion to numpy. Compute it from the network's outputs alone, in torch."
        )
    precision.backward(loss / count_of(targets))


def _check_gradients(trial: Trial, network: nn.Module) -> None:
    unused = [name for name, one in network.named_parameters() if one.requires_grad and one.grad is None]
    config = trial.config
    if unused and trial.plan.world_size > 1 and config.train.backend == "ddp" and not config.batch.shards:
        raise ConfigError(
            f"{len(unused)} weights of the network have no part in the loss, e.g. {unused[0]}: on several ranks DDP "
            "waits for the gradients of all. Freeze them with requires_grad_(False), leave them out, or train with one "
            "worker, batch.shards or train.backend=horovod."
        )
