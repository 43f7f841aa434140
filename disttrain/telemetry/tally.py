"""Counting while training: sums stay on the device until a line is due."""

from __future__ import annotations

from typing import Any

import torch

from disttrain.tensor_tree import count_of, detached, tensors_of

_KEPT_VALUES = 1 << 16  # outputs of a step up to this many values are kept until a line is due


class Tally:
    """What this rank has trained on since the last line.

    Outputs are kept as they are and counted together when a line is due: a step launches no kernel for it.
    """

    def __init__(self, device: torch.device, scores_classes: bool = True) -> None:
        """`scores_classes`: whether the loss takes outputs as class scores, so that answers can be right or wrong."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
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
        return torch.stack(bad).sum() if bad else torch.zeros((), dtype=torch.int64, device=self._sums.device)

    def _count(self) -> None:
        if not self._kept:
            return
        outputs, targets, losses = zip(*self._kept, strict=True)
        self._sums[0] += torch.stack(losses).sum(dtype=torch.float64)
        self.classifies = self._scores_classes and counts_as_classification(outputs[0], targets[0])
        if self.classifies:
            labels = torch.cat(targets)
            right = (torch.cat(outputs).argmax(1) == labels).sum()
            # A target that is no class number is neither right nor wrong: then there is no figure.
            self._sums[1] += torch.where(_are_classes(labels, outputs[0].shape[1]), right, torch.nan)
        self._sums[2] += sum(count_of(one) for one in targets)
        self._kept.clear()

    def sums(self) -> torch.Tensor:
        """float64 [3] on the device, a copy: sum of losses, correct answers (NaN: not defined), samples."""
        self._count()
        return self._sums.clone()

    def pop_sums(self) -> torch.Tensor:
        """`sums`; and begin anew."""
        sums = self.sums()
        self._sums.zero_()
        return sums


def counts_as_classification(outputs: Any, targets: Any) -> bool:
    """Whether outputs are class scores [n, two classes or more] for integer targets [n]."""
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return False
    whole = not targets.is_floating_point() and targets.dtype != torch.bool
    return outputs.ndim == 2 and outputs.shape[1] > 1 and targets.ndim == 1 and whole


def _are_classes(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return ((labels >= 0) & (labels < classes)).all()
