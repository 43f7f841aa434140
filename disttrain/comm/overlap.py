"""How long the exchange of gradients takes, and how much of it the backward pass hides: as DDP's own clocks say."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_EVERY_STEPS = 10
_NS_PER_MS = 1e6


class ExchangeTimes:
    """Of the last step that DDP has timed: among the first ten of a start each, then every hundredth on a GPU and every
    tenth on a CPU.

    DDP's clocks on a GPU are CUDA events; to read them it waits for the step before, which is why it is left at its own
    hundred there.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """`model` as `Comm.wrap` gave it: without DDP around it, nothing is known."""
        self._model = model if isinstance(model, DistributedDataParallel) else None
        self._last = -1
        if self._model is not None and device.type == "cpu":
            self._model._set_ddp_runtime_logging_sample_rate(_EVERY_STEPS)

    def take(self) -> dict[str, float] | None:
        """Milliseconds of one step, its last micro-batch: `total` from the first bucket of gradients to the end of the
        last one, `hidden` of it while backward still computed, and `exposed`, for which the rank has waited. None where
        no other step was timed since the last call."""
        if self._model is None:
            return None
        found = self._model._get_ddp_logging_data()
        total, hidden = found.get("backward_comm_time"), found.get("backward_compute_comm_overlap_time")
        timed = int(found.get("iteration", -1))
        if total is None or hidden is None or timed == self._last:
            return None
        self._last = timed
        hidden = min(max(0, hidden), total)
        times = {"total": total, "hidden": hidden, "exposed": total - hidden}
        return {name: round(value / _NS_PER_MS, 4) for name, value in times.items()}
