"""Whether a loss is a sum or a mean over samples: the sum over micro-batches and ranks rests on it.

The loss of a few samples together is compared with their losses one by one: as they are, with their outputs shifted,
and, where targets are class numbers, with every class in turn; where they are real numbers, with values that mark what
is missing. A mean that is weighted by class, or leaves entries out, differs there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from disttrain.errors import ConfigError
from disttrain.optim.loss import UserLoss, check_shape
from disttrain.tensor_tree import count_of, describe, rows

_TOLERANCE = 1e-4  # of the mean absolute loss of a sample; float32 sums of some samples agree to 1e-6
_MOST_CLASSES = 256  # looked at one by one
_WAY_OUT = (
    "Return one loss per sample, [n] (reduction='none'; per class or pixel then .flatten(1).mean(1)): class weights "
    "and ignored entries count there as they are. A loss that compares samples with each other cannot be used."
)


@dataclass(frozen=True)
class LossFinding:
    """What a loss was seen to be."""

    scalar: str | None
    """`mean` or `sum` over samples; None where there is one loss per sample."""
    scores_classes: bool
    """Whether it takes the outputs as class scores and the targets as class numbers."""

    @property
    def scalar_is_sum(self) -> bool:
        """For `build_loss`."""
        return self.scalar == "sum"


def check_loss(loss: UserLoss, outputs: Any, targets: Any) -> LossFinding:
    """What `loss` is on the outputs and targets of some samples. Raises ConfigError where it is neither one loss per
    sample nor their mean or sum."""
    whole = _value(loss, outputs, targets)
    count = count_of(targets)
    unit = 1
    try:
        _value(loss, rows(outputs, slice(1)), rows(targets, slice(1)))
    except ConfigError:
        unit = 2
    scores = _scores_classes(loss, outputs, targets)
    if whole.ndim:
        check_shape(whole, count)
    trials = [(outputs, targets)]
    if isinstance(outputs, torch.Tensor) and outputs.is_floating_point():
        trials.append((_shifted(outputs), targets))
        if scores and whole.ndim == 0:
            trials += _class_trials(outputs, targets, unit) + _class_trials(_shifted(outputs), targets, unit)
    if whole.ndim == 0:
        trials += _marked_trials(outputs, targets)
    kinds = {"mean", "sum"} if whole.ndim == 0 else {None}
    for some_outputs, some_targets in trials:
        kinds &= _kinds(loss, some_outputs, some_targets, unit, kinds)
    return LossFinding("mean" if "mean" in kinds else next(iter(kinds)), scores)


def _value(loss: UserLoss, outputs: Any, targets: Any) -> torch.Tensor:
    torch.manual_seed(0)
    try:
        value = loss(outputs, targets)
    except Exception as error:
        raise ConfigError(
            f"the loss raised {type(error).__name__} for outputs {describe(outputs)} and targets {describe(targets)}: "
            f"{str(error).strip()} It must take (outputs, targets) of any number of samples."
        ) from error
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        found = describe(value) if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        hint = " Give an instance, not the class." if isinstance(loss, type) else ""
        raise ConfigError(f"the loss gave {found}: expected a tensor of floats, [n] or a scalar.{hint}")
    return value


def _kinds(loss: UserLoss, outputs: Any, targets: Any, unit: int, kinds: set[Any]) -> set[Any]:
    """Those of `kinds` that the loss is on these samples; all where they say nothing. Raises ConfigError if none."""
    count = count_of(targets)
    try:
        parts = [
            _value(loss, rows(outputs, slice(at, at + unit)), rows(targets, slice(at, at + unit))).detach().double()
            for at in range(0, count - count % unit, unit)
        ]
    except ConfigError:  # such outputs or targets are not for this loss
        return kinds
    chosen = [at for at, part in enumerate(parts) if bool(part.isfinite().all())]
    together = slice(0, count - count % unit)
    hides = (
        len(chosen) < len(parts)
        and None not in kinds
        and bool(_value(loss, rows(outputs, together), rows(targets, together)).isfinite())
    )
    if hides:
        raise ConfigError(
            "the loss of a sample alone is not finite, and beside others it is: it leaves entries out and takes "
            f"the mean over the others, which could not be added up over micro-batches and ranks. {_WAY_OUT}"
        )
    if len(chosen) < 2:
        return kinds
    index = torch.tensor([at * unit + k for at in chosen for k in range(unit)], device=parts[0].device)
    whole = _value(loss, rows(outputs, index), rows(targets, index)).detach().double()
    if not bool(whole.isfinite().all()):
        return kinds
    if None in kinds:
        check_shape(whole, len(index))
        single = torch.cat([parts[at].reshape(-1) for at in chosen])
        fits = {None} if single.shape == whole.reshape(-1).shape and _close(whole.reshape(-1), single) else set()
        seen = f"{_numbers(whole)} together, {_numbers(single)} one by one"
    else:
        single = torch.stack([parts[at].mean() for at in chosen])
        expected = {"mean": single.mean(), "sum": single.sum()}
        # Of zeros mean and sum are the same.
        fits = {kind for kind in kinds if _close(whole, expected[kind], single)}
        seen = f"{whole.item():.6g} of {len(index)} samples together, {_numbers(single)} one by one"
    if not fits:
        shapes = f"outputs {describe(outputs)}, targets {describe(targets)}"
        raise ConfigError(
            f"the loss is no mean and no sum over samples ({seen}; {shapes}), so micro-batches and ranks could not be "
            f"added up. {_WAY_OUT}{_shape_hint(outputs, targets)}"
        )
    return fits


def _close(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor | None = None) -> bool:
    size = float((other if scale is None else scale).abs().mean())
    return float((one - other).abs().max()) <= _TOLERANCE * size * max(1, one.numel()) + 1e-7


def _numbers(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in values.reshape(-1)[:4].tolist())


def _shape_hint(outputs: Any, targets: Any) -> str:
    tensors = isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)
    if tensors and outputs.shape == (*targets.shape, 1):
        return " Here [n, 1] and [n] are spread to [n, n]: give both the same shape, e.g. outputs.squeeze(1)."
    return ""


def _shifted(outputs: torch.Tensor) -> torch.Tensor:
    """Other outputs: those of a network whose last layer begins at zero say nothing about weights."""
    draw = torch.Generator().manual_seed(1)
    noise = torch.rand(outputs.shape, generator=draw, dtype=torch.float64) - 0.5
    return outputs + noise.to(outputs.device, outputs.dtype)


def _is_class_like(outputs: Any, targets: Any) -> bool:
    tensors = isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)
    if not tensors or targets.dtype != torch.int64 or not outputs.is_floating_point() or outputs.ndim < 2:
        return False
    return outputs.shape[1] > 1 and targets.shape == (outputs.shape[0], *outputs.shape[2:])


def _scores_classes(loss: UserLoss, outputs: Any, targets: Any) -> bool:
    """Whether the loss falls when the output that the target names rises, and falls by no other as much."""
    if not _is_class_like(outputs, targets):
        return False
    leaf = outputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = _value(loss, leaf, targets).sum()
    slope = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    if slope is None:
        return False
    valid = (targets >= 0) & (targets < outputs.shape[1])
    at_target = slope.gather(1, targets.clamp(0, outputs.shape[1] - 1).unsqueeze(1)).squeeze(1)
    says = valid & slope.isfinite().all(1) & (slope != 0).any(1)
    if not bool(says.any()):
        return bool(valid.any())
    agrees = (at_target <= slope.amin(1)) & (at_target < 0)
    return float(agrees[says].float().mean()) > 0.5


def _marked_trials(outputs: Any, targets: Any) -> list[tuple[Any, Any]]:
    """The first sample with values that losses are often made to leave out, in every second place of its target.

    Whole numbers are left as they are: where they are class numbers or indices, such a value cannot come, or is refused
    when it does.
    """
    if not isinstance(targets, torch.Tensor) or not targets.is_floating_point():
        return []
    trials = []
    for mark in (math.nan, -1, 0, -100):
        marked = targets.detach().clone()
        marked[:1].view(-1)[::2] = mark
        trials.append((outputs, marked))
    return trials


def _class_trials(outputs: torch.Tensor, targets: torch.Tensor, unit: int) -> list[tuple[Any, Any]]:
    """Two samples, one of class 0 and one of another, for every other class."""
    classes = outputs.shape[1]
    step = max(1, math.ceil((classes - 1) / _MOST_CLASSES))
    first = torch.cat([outputs[:1]] * unit + [outputs[-1:]] * unit)
    blank = torch.zeros_like(targets[:1]).repeat(2 * unit, *[1] * (targets.ndim - 1))
    trials = []
    for number in range(1, classes, step):
        labels = blank.clone()
        labels[unit:] = number
        trials.append((first, labels))
    return trials
