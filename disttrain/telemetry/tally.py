"""Counting while training: sums stay on the device until a line is due."""

from __future__ import annotations

import torch

_KEPT_VALUES = 1 << 16  # outputs of a step up to this many values are kept until a line is due


class Tally:
    """What this rank has trained on since the last line.

    Outputs are kept as they are and counted together when a line is due: a step launches no kernel for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.classifies = False
        self._kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._of_step: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.grad_norm: torch.Tensor | None = None

    def add(self, outputs: torch.Tensor, targets: torch.Tensor, loss_sum: torch.Tensor) -> None:
        """One micro-batch of the step at hand: its outputs, its targets [n] and the sum of its losses."""
        self._of_step.append((outputs.detach(), targets, loss_sum.detach()))

    def commit(self) -> None:
        """Count the micro-batches of the step."""
        self._kept += self._of_step
        if sum(outputs.numel() for outputs, _, _ in self._of_step) > _KEPT_VALUES:
            self._count()
        self._of_step.clear()

    def discard(self) -> None:
        """Forget the micro-batches of the step: they changed nothing."""
        self._of_step.clear()

    def _count(self) -> None:
        if not self._kept:
            return
        outputs, targets, losses = zip(*self._kept, strict=True)
        self._sums[0] += torch.stack(losses).sum(dtype=torch.float64)
        self.classifies = counts_as_classification(outputs[0], targets[0])
        if self.classifies:
            self._sums[1] += (torch.cat(outputs).argmax(1) == torch.cat(targets)).sum()
        self._sums[2] += sum(len(one) for one in targets)
        self._kept.clear()

    def sums(self) -> torch.Tensor:
        """float64 [3] on the device, a copy: sum of losses, correct answers, samples."""
        self._count()
        return self._sums.clone()

    def pop_sums(self) -> torch.Tensor:
        """`sums`; and begin anew."""
        sums = self.sums()
        self._sums.zero_()
        return sums


def counts_as_classification(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether outputs are class scores [n, classes] for integer targets [n]."""
    return outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()
