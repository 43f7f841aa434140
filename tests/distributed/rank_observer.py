"""Notes what one training does on a rank, around the real `run_training`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

import disttrain
import disttrain.inference.evaluate_model
import disttrain.loop
import disttrain.training.assemble
import disttrain.training.prepare
import disttrain.training.run
from disttrain.data.pipeline import GlobalBatch, MicroBatch, TrainPipeline
from disttrain.loop import Parts, Position


def save_weights(path: Path, model: nn.Module) -> None:
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}, path)


class Observer:
    """Notes what one training does on this rank."""

    def __init__(self, rank: int, folder: Path, every_step: bool) -> None:
        self.rank, self.folder, self.every_step = rank, folder, every_step
        self.steps: list[dict[str, Any]] = []
        self.reduced: list[tuple[str, int]] = []
        self.seen: dict[str, Any] = {}
        self.forwards: list[int] = []
        self._hook: RemovableHandle | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        observer = self
        real_prepare, real_train, real_all_reduce = (
            disttrain.training.prepare.prepare,
            disttrain.loop.train,
            dist.all_reduce,
        )

        class Pipeline(TrainPipeline):
            """Notes the ids of every micro-batch when it is taken."""

            def epoch(self, epoch: int, first_step: int = 0) -> Iterator[GlobalBatch]:
                for batch in super().epoch(epoch, first_step):
                    note: dict[str, Any] = {"epoch": epoch, "count": batch.count, "micro": []}
                    observer.steps.append(note)
                    observer.reduced.clear()
                    observer.forwards.clear()
                    yield dataclasses.replace(batch, micro_batches=self._noted(batch, note))

            @staticmethod
            def _noted(batch: GlobalBatch, note: dict[str, Any]) -> Iterator[MicroBatch]:
                for micro in batch.micro_batches:
                    assert len(micro.inputs) == len(micro.targets) == len(micro.ids)
                    note["micro"].append({"ids": micro.ids.tolist(), "weight": micro.weight})
                    yield micro

        def prepare(*arguments: Any) -> Any:
            prepared = real_prepare(*arguments)
            save_weights(observer.folder / f"initial_{observer.rank}.safetensors", prepared.model)
            return prepared

        def train(parts: Parts, position: Position, total_steps: int, hooks: Any) -> None:
            observer.before(parts)
            real_train(parts, position, total_steps, _StepHooks(hooks, observer, parts))
            observer.after(parts)

        def all_reduce(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            observer.reduced.append((str(tensor.dtype), tensor.numel()))
            return real_all_reduce(tensor, *arguments, **options)

        with contextlib.ExitStack() as stack:
            for place, name, value in (
                (disttrain.training.assemble, "TrainPipeline", Pipeline),
                (disttrain.training.run, "prepare", prepare),
                (disttrain.training.run, "train", train),
                (dist, "all_reduce", all_reduce),
            ):
                stack.enter_context(mock.patch.object(place, name, value))
            yield

    def before(self, parts: Parts) -> None:
        self.seen["samples"] = type(parts.pipeline.samples).__name__
        inner = parts.model.module if isinstance(parts.model, DistributedDataParallel) else parts.model

        def after_forward(model: nn.Module, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> None:
            self.forwards.append(len(inputs[0]))
            self.seen["output_dtype"] = str(outputs.dtype)
            self.seen["inputs_channels_last"] = inputs[0].ndim == 4 and inputs[0].is_contiguous(
                memory_format=torch.channels_last
            )

        self.seen["compiled"] = inner._compiled_call_impl is not None
        if not self.seen["compiled"]:
            self._hook = inner.register_forward_hook(after_forward)

    def after(self, parts: Parts) -> None:
        if self._hook is not None:
            self._hook.remove()  # evaluations are not to be noted
        inner = parts.model
        if isinstance(inner, DistributedDataParallel):
            data = inner._get_ddp_logging_data()
            keys = ("comm_hook", "bucket_sizes", "rebuilt_bucket_sizes")
            self.seen["ddp"] = {key: data.get(key) for key in keys}
            inner = inner.module
        save_weights(self.folder / f"final_{self.rank}.safetensors", inner)
        optimizer = getattr(parts.optimizer, "optim", parts.optimizer)
        states = list(optimizer.state.values())
        self.seen["optimizer"] = type(parts.optimizer).__name__
        self.seen["optimizer_values"] = sum(
            value.numel() for state in states for key, value in state.items() if key != "step" and value is not None
        )
        self.seen["weights_channels_last"] = all(
            weight.is_contiguous(memory_format=torch.channels_last) for weight in inner.parameters() if weight.ndim == 4
        )
        self.seen["modules"] = sorted({type(module).__name__ for module in inner.modules()})
        self.seen["weight_dtypes"] = sorted({str(weight.dtype) for weight in inner.parameters()})

    def after_step(self, parts: Parts) -> None:
        note = self.steps[-1]
        note["lr"] = [group["lr"] for group in parts.optimizer.param_groups]
        note["scale"] = parts.precision.scaler.get_scale() if parts.precision.scaler else None
        note["reduced"] = list(self.reduced)
        note["forwards"] = list(self.forwards)
        if self.every_step:
            model = parts.model.module if isinstance(parts.model, DistributedDataParallel) else parts.model
            save_weights(self.folder / f"step_{len(self.steps)}_{self.rank}.safetensors", model)


class _StepHooks:
    """The run's own hooks, with a look at every step first."""

    def __init__(self, hooks: Any, observer: Observer, parts: Parts) -> None:
        self._hooks, self._observer, self._parts = hooks, observer, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hooks, name)

    def log(self, *arguments: Any) -> None:
        self._observer.after_step(self._parts)
        self._hooks.log(*arguments)
