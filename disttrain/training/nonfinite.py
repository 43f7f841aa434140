"""What follows a step whose loss or gradient is not finite: it is written down, and left out or made undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from disttrain.comm.base import Comm
from disttrain.config.sections import TrainConfig
from disttrain.data.pipeline import MicroBatch, TrainPipeline
from disttrain.errors import DivergedError
from disttrain.log import log
from disttrain.loop import Position
from disttrain.optim.loss import LossSum
from disttrain.optim.precision import Precision
from disttrain.telemetry.metrics_file import MetricsFile
from disttrain.tensor_tree import rows

_SHOWN = 10  # sample ids in a message; the file has them all


class NonFinitePolicy:
    """The policy `train.nonfinite`. The weights are those before the offending step when it is called."""

    def __init__(
        self,
        config: TrainConfig,
        record: Path,
        comm: Comm,
        model: nn.Module,
        pipeline: TrainPipeline,
        precision: Precision,
        loss: LossSum,
    ) -> None:
        self.config, self.record, self.comm, self.model = config, record, comm, model
        self.pipeline, self.precision, self.loss = pipeline, precision, loss
        self.used = 0
        """How many non-finite steps of this run were skipped or rolled back."""
        self.roll_back: Callable[[], int | None] = lambda: None
        """Puts back the weights and the optimizer of the last checkpoint. Returns its step, None without one."""

    def __call__(self, position: Position) -> None:
        """See `Parts.on_nonfinite`."""
        ids, suspects = self._examine(position)
        listed = ", ".join(map(str, suspects[:_SHOWN])) + (" ..." if len(suspects) > _SHOWN else "")
        blame = f"of its {len(ids)} samples, these give such values alone (ids): {listed}" if len(suspects) else (
            f"none of its {len(ids)} samples gives such values alone: the gradient overflowed"
        )  # fmt: skip
        what = f"the loss or the gradient of step {position.step + 1} is not finite; {blame}. See {self.record}"
        wanted = self.config.nonfinite
        gives_up = wanted == "stop" or self.used >= self.config.nonfinite_retries
        if self.comm.rank == 0:
            file = MetricsFile(self.record, position.step)
            file.write(
                step=position.step + 1, epoch=position.epoch, remedy="stop" if gives_up else wanted,
                ids=ids.tolist(), suspects=suspects.tolist(),
            )  # fmt: skip
            file.close()
        if gives_up:
            tried = (
                f" train.nonfinite={wanted} was applied {self.used} times, as often as train.nonfinite_retries allows."
            )
            raise DivergedError(
                f"{what}.{tried if wanted != 'stop' else ''} Lower optim.lr, set optim.clip_norm, look at those "
                "samples, or go on past them with train.nonfinite=skip or rollback."
            )
        self.used += 1
        if wanted == "rollback":
            step = self.roll_back()
            if step is None:
                raise DivergedError(
                    f"{what}. train.nonfinite=rollback has no checkpoint to go back to yet. Set "
                    "checkpoint.every_steps lower, or use train.nonfinite=skip."
                )
            log.warning("%s. Back to the weights of step %d; its samples and those since are left out.", what, step)
        else:
            log.warning("%s. The batch is skipped.", what)

    def _examine(self, position: Position) -> tuple[np.ndarray, np.ndarray]:
        """(ids of the global batch, those of them whose loss or gradient is not finite alone), on every rank.

        The network is as before the step. Gradients are looked at only where no loss tells.
        """
        ids = self.pipeline.ids_of(position.epoch, position.step_in_epoch)
        self.model.eval()  # BatchNorm's statistics stay as they are
        for look in (self._has_bad_loss, self._has_bad_gradient):
            bad_ids: list[int] = []
            for micro in next(self.pipeline.epoch(position.epoch, position.step_in_epoch)).micro_batches:
                if micro.weight:
                    bad_ids += [int(number) for at, number in enumerate(micro.ids) if look(micro, at)]
            marks = torch.from_numpy(np.isin(ids, bad_ids).astype(np.int32)).to(self.comm.device)
            suspects = ids[self.comm.all_reduce(marks).cpu().numpy() > 0]
            if len(suspects):
                break
        self.model.train()
        return ids, suspects

    def _loss_of(self, micro: MicroBatch, at: int) -> torch.Tensor:
        """The loss of one sample without the others, which may spoil it: twice, since not every network takes one."""
        one = torch.tensor([at, at], device=self.comm.device)
        with self.precision.autocast():
            return self.loss(self.model(rows(micro.inputs, one)), rows(micro.targets, one))

    @torch.no_grad()
    def _has_bad_loss(self, micro: MicroBatch, at: int) -> bool:
        return not bool(self._loss_of(micro, at).isfinite())

    def _has_bad_gradient(self, micro: MicroBatch, at: int) -> bool:
        # Not backward(): that would send the gradients to the other ranks.
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(self._loss_of(micro, at).float(), trained, allow_unused=True)
        return not all(bool(one.isfinite().all()) for one in gradients if one is not None)
