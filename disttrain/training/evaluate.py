"""The evaluation pass: every sample on exactly one rank, counted once, and checked to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from disttrain.comm.base import Comm
from disttrain.data.pipeline import EvalPipeline
from disttrain.data.transform import NO_SYMMETRIES, Symmetry
from disttrain.errors import IntegrityError
from disttrain.models.tta import averaged_outputs
from disttrain.optim.loss import LossSum
from disttrain.telemetry.exact_sum import decode, encode
from disttrain.telemetry.tally import counts_as_classification


@dataclass(frozen=True)
class Evaluation:
    """What a pass over a split gave."""

    count: int
    loss: float | None
    """Mean over the samples; None where it is not finite."""
    confusion: np.ndarray | None
    """int64 [classes, classes]: rows are the true class, columns the predicted one. None without classes."""
    class_names: tuple[str, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of samples whose most probable class is the true one."""
        return None if self.confusion is None else float(np.trace(self.confusion) / self.count)

    def as_json(self) -> dict[str, Any]:
        """The object that `disttrain evaluate` prints; a ratio without cases is null."""
        result: dict[str, Any] = {"count": self.count, "loss": self.loss, "accuracy": self.accuracy}
        if self.confusion is not None:
            result["per_class"] = {name: self._scores(index) for index, name in enumerate(self.class_names)}
            result["confusion_matrix"] = self.confusion.tolist()
            result["class_names"] = list(self.class_names)
        return result

    def _scores(self, index: int) -> dict[str, float | int | None]:
        assert self.confusion is not None
        hits = int(self.confusion[index, index])
        support, predicted = int(self.confusion[index].sum()), int(self.confusion[:, index].sum())
        return {
            "precision": hits / predicted if predicted else None,
            "recall": hits / support if support else None,
            "f1": 2 * hits / (support + predicted) if support + predicted else None,
            "support": support,
        }


class EvaluationInterrupted(Exception):
    """The evaluation was given up, on all ranks alike, because the run has been asked to stop."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: EvalPipeline,
    loss: LossSum,
    comm: Comm,
    class_names: tuple[str, ...] = (),
    symmetries: tuple[Symmetry, ...] = NO_SYMMETRIES,
    scores_classes: bool = True,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate `model` (not wrapped, in its own precision) on all ranks together; each gets the same result.

    `scores_classes`: whether the loss takes outputs as class scores, so that there are answers to count.
    `interrupted` is asked before each batch, equally often on every rank, and has to answer alike on all. Raises
    EvaluationInterrupted where it says so, IntegrityError where a sample was not counted exactly once.
    """
    was_training = model.training
    model.eval()
    seen = torch.zeros(len(batches.ids), dtype=torch.int32)
    losses: list[torch.Tensor] = []
    confusion = torch.zeros(0, dtype=torch.int64, device=comm.device)
    mine = iter(batches)
    for _ in range(batches.num_batches):
        if interrupted():
            model.train(was_training)
            raise EvaluationInterrupted
        batch = next(mine, None)
        if batch is None:
            continue
        outputs = averaged_outputs(model, batch.inputs, symmetries)
        losses.append(loss(outputs, batch.targets))
        seen[np.searchsorted(batches.ids, batch.ids.numpy())] += 1
        if scores_classes and counts_as_classification(outputs, batch.targets):
            pairs = _count_pairs(outputs, batch.targets)
            confusion = pairs if len(confusion) == 0 else confusion + pairs
    model.train(was_training)
    loss_sums = encode(torch.stack(losses).tolist() if losses else ())  # the same bits in any order
    loss_sum = decode(comm.all_reduce(torch.tensor(loss_sums, device=comm.device)).tolist())
    counted = comm.all_reduce(seen.to(comm.device)).cpu()
    if not bool((counted == 1).all()):
        wrong = batches.ids[(counted != 1).numpy()]
        raise IntegrityError(f"{len(wrong)} samples were not counted exactly once in the evaluation, e.g. {wrong[:5]}.")
    confusion = _reduce_confusion(confusion, comm)
    if int(confusion.sum()) < len(counted):  # targets that are no class numbers, outputs with NaN: no accuracy
        confusion = confusion[:0]
    classes = math.isqrt(len(confusion))
    names = class_names if len(class_names) == classes else tuple(map(str, range(classes)))
    matrix = confusion.view(classes, classes).cpu().numpy() if classes else None
    loss_mean = loss_sum / len(counted)
    return Evaluation(len(counted), loss_mean if math.isfinite(loss_mean) else None, matrix, names)


def _count_pairs(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """int64 [classes * classes]: how often each true class went with each answer. Not counted are other targets, and
    outputs with NaN, which are no answer."""
    classes = outputs.shape[1]
    valid = (targets >= 0) & (targets < classes) & ~outputs.isnan().any(1)
    # The last bin is for those: to pick the others out would wait for the device.
    pairs = torch.where(valid, targets * classes + outputs.argmax(1), classes * classes)
    return torch.bincount(pairs, minlength=classes * classes + 1)[:-1]


def _reduce_confusion(confusion: torch.Tensor, comm: Comm) -> torch.Tensor:
    """The sum over ranks, of which those without samples do not know the number of classes."""
    sizes = torch.zeros(comm.world_size, dtype=torch.int64, device=comm.device)
    sizes[comm.rank] = len(confusion)
    size = int(comm.all_reduce(sizes).max())
    if size == 0:
        return confusion
    return comm.all_reduce(confusion if len(confusion) else confusion.new_zeros(size))
