"""Counting while training: sums stay on the device until a line is due."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from disttrain.logs import log
from disttrain.rundir import write_atomically

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

    def confirm(self) -> None:
        """Count the micro-batches of the step."""
        self._kept += self._of_step
        if sum(outputs.numel() for outputs, _, _ in self._of_step) > _KEPT_VALUES:
            self._count()
        self._of_step.clear()

    def take_back(self) -> None:
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

    def take(self) -> torch.Tensor:
        """`sums`; and begin anew."""
        sums = self.sums()
        self._sums.zero_()
        return sums


def counts_as_classification(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether outputs are class scores [n, classes] for integer targets [n]."""
    return outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line. Lines that the disk does not take are kept until it does."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Open for the steps after `first_step`: lines of later ones, from a run that was cut off, are dropped."""
        self._path, self._waiting, self._warned = path, b"", False
        if path.exists():
            write_atomically(path, "".join(_lines_up_to(path, first_step)))
        self._file = path.open("ab", buffering=0)

    def write(self, **values: Any) -> None:
        """Append one line. Values that are not finite become null: JSON has no word for them."""
        rounded = {key: _plain(value) for key, value in values.items()}
        self._waiting += json.dumps({"time": round(time.time(), 3), **rounded}).encode() + b"\n"
        try:
            self._flush()
        except OSError as error:
            if not self._warned:
                log.warning("%s cannot be written (%s); its lines are kept for later.", self._path, error.strerror)
            self._warned = True

    def _flush(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def close(self) -> None:
        """Close the file. Raises OSError where lines are left that it does not take."""
        with self._file:
            try:
                self._flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from None


def _lines_up_to(path: Path, step: int) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last line of a killed run may be cut short
            if json.loads(line)["step"] <= step:
                yield line + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else None
    return value
