"""Counting while training: sums stay on the device until a line is due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from disttrain.telemetry.exact_sum import LIMBS, decode, encode
from disttrain.tensor_tree import count_of, detached, tensors_of

_KEPT_VALUES = 1 << 16  # outputs of a step up to this many values are kept until a line is due


Sums = tuple[int, ...]
"""The values of `Tally.sums`: of one rank, or of several added up one by one. `Totals` says what they stand for."""

NOTHING: Sums = (0,) * (LIMBS + 3)
"""Before the first step."""


class Totals(NamedTuple):
    """What sums stand for, once those of all ranks are added up."""

    loss_sum: float
    correct: int | None
    """Correct answers; None where a target was no class number or an output NaN: neither right nor wrong."""
    samples: int

    @classmethod
    def of(cls, sums: Sequence[int]) -> Totals:
        """From the values of `Tally.sums`."""
        correct, unscored, samples = sums[LIMBS:]
        return cls(decode(sums[:LIMBS]), None if unscored else correct, samples)


def sums_from_json(saved: Sequence[Any]) -> Sums:
    """The values of `Tally.sums` from a checkpoint; versions before wrote the three of `Totals`, with null where one
    was not finite. Raises ValueError or TypeError for anything else."""
    if len(saved) == 3:
        loss_sum, correct, samples = (math.nan if one is None else float(one) for one in saved)
        is_scored = math.isfinite(correct)
        return (*encode([loss_sum]), int(correct) if is_scored else 0, int(not is_scored), int(samples))
    if len(saved) != len(NOTHING) or not all(type(one) is int for one in saved):
        raise ValueError(f"its sums for the next line are {saved}")
    return tuple(saved)


class Tally:
    """What this rank has trained on since the last line.

    Outputs are kept as they are and counted together when a line is due: a step launches no kernel for it.
    """

    def __init__(self, device: torch.device, scores_classes: bool = True) -> None:
        """`scores_classes`: whether the loss takes outputs as class scores, so that answers can be right or wrong."""
        self._device = device
        self._losses: list[torch.Tensor] = []
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)
        self._scores_classes = scores_classes
        self.classifies = False
        self._kept: list[tuple[Any, Any, torch.Tensor]] = []
        self._of_step: list[tuple[Any, Any, torch.Tensor]] = []
        self.grad_norm: torch.Tensor | None = None

    def add(self, outputs: Any, targets: Any, loss_sum: torch.Tensor) -> None:
        """One micro-batch of the step at hand: its outputs, its targets [n] and the sum of its losses."""
        self._of_step.append((detached(outputs), targets, loss_sum.detach()))

    def commit(self) -> None:
        """Count the micro-batches of the step."""
        self._kept += self._of_step
        if sum(one.numel() for outputs, _, _ in self._of_step for one in tensors_of(outputs)) > _KEPT_VALUES:
            self._count()
        self._of_step.clear()

    def discard(self) -> torch.Tensor:
        """Forget the micro-batches of the step: they changed nothing. Returns how many losses were not finite."""
        losses = [loss for _, _, loss in self._of_step]
        self._of_step.clear()
        bad = [~loss.isfinite() for loss in losses]
        return torch.stack(bad).sum() if bad else torch.zeros((), dtype=torch.int64, device=self._device)

    def _count(self) -> None:
        if not self._kept:
            return
        outputs, targets, losses = zip(*self._kept, strict=True)
        self._losses += losses
        self.classifies = self._scores_classes and counts_as_classification(outputs[0], targets[0])
        if self.classifies:
            labels, scores = torch.cat(targets), torch.cat(outputs)
            self._counts[0] += (scores.argmax(1) == labels).sum()
            self._counts[1] += ((labels < 0) | (labels >= scores.shape[1]) | scores.isnan().any(1)).sum()
        self._counts[2] += sum(count_of(one) for one in targets)
        self._kept.clear()

    def sums(self) -> torch.Tensor:
        """int64 [LIMBS + 3] on the device: the sum of losses (see `exact_sum`), correct answers, samples without
        a class number or an answer, samples. Free of rounding: added over ranks, or over parts of a run, in any order,
        they are the same."""
        self._count()
        losses = torch.stack(self._losses).tolist() if self._losses else []
        return torch.cat([torch.tensor(encode(losses), device=self._device), self._counts])

    def pop_sums(self) -> torch.Tensor:
        """`sums`; and begin anew."""
        sums = self.sums()
        self._losses.clear()
        self._counts.zero_()
        return sums


def counts_as_classification(outputs: Any, targets: Any) -> bool:
    """Whether outputs are class scores [n, two classes or more] for integer targets [n]."""
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return False
    whole = not targets.is_floating_point() and targets.dtype != torch.bool
    return outputs.ndim == 2 and outputs.shape[1] > 1 and targets.ndim == 1 and whole
