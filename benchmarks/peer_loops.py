"""One training of MNIST's CNN as each library's documentation writes it. Runs as a rank; `peers.py` starts it.

All have the same network, data, optimizer, batch per rank and normalisation, and no augmentation. What is timed is
whole epochs after a first one that is not counted, from an even start of all ranks to the end of the slowest.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from disttrain.config.sections import DataConfig
from disttrain.data.open import open_dataset
from disttrain.models.mnist import MnistCnn

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01


class Digits(Dataset[tuple[torch.Tensor, int]]):
    """MNIST's training split in memory, one digit at a time, scaled and normalised as torchvision's transforms do."""

    def __init__(self, data: str, samples: int) -> None:
        dataset = open_dataset(DataConfig(name="mnist", path=data))
        ids = dataset.splits["train"][:samples]
        self.images = torch.from_numpy(dataset.samples.images[ids])  # type: ignore[union-attr]
        self.labels = dataset.samples.labels[ids].tolist()  # type: ignore[union-attr]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return (self.images[index].float().div(255) - 0.1307) / 0.3081, self.labels[index]


class Stopwatch:
    """The seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def start(self) -> None:
        """Call on every rank."""
        dist.barrier()
        self.began = time.perf_counter()

    def stop(self) -> None:
        """Call on every rank."""
        dist.barrier()
        self.seconds.append(time.perf_counter() - self.began)


def loader_for(arguments: argparse.Namespace, sampler: Any = None) -> DataLoader[Any]:
    """The loader that all but disttrain use; without a sampler the library puts its own distributed one there."""
    return DataLoader(
        Digits(arguments.data, arguments.samples),
        batch_size=arguments.micro_batch_size,
        shuffle=sampler is None,
        sampler=sampler,
        num_workers=arguments.loader_workers,
        persistent_workers=arguments.loader_workers > 0,
    )


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all."""
    return torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)


def plain_ddp(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    """As in PyTorch's DDP tutorial: https://docs.pytorch.org/tutorials/beginner/ddp_series_multigpu.html"""
    dist.init_process_group("gloo")
    sampler: DistributedSampler[Any] = DistributedSampler(Digits(arguments.data, arguments.samples))
    loader = loader_for(arguments, sampler)
    model = DistributedDataParallel(MnistCnn())
    optimizer = adamw(model)
    for epoch in range(arguments.epochs):
        sampler.set_epoch(epoch)
        watch.start()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
        watch.stop()
    dist.destroy_process_group()


def fabric(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    """As in Lightning's guide: https://lightning.ai/docs/fabric/stable/fundamentals/convert.html"""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    runtime = Fabric(accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"))
    runtime.launch()
    network = MnistCnn()
    model, optimizer = runtime.setup(network, adamw(network))
    loader = runtime.setup_dataloaders(loader_for(arguments))
    for epoch in range(arguments.epochs):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        watch.start()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), targets)
            runtime.backward(loss)
            optimizer.step()
        watch.stop()


def trainer(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    """As in Lightning's guide: https://lightning.ai/docs/pytorch/stable/starter/introduction.html

    Logger, progress bar, checkpoints and summary are off: it runs at its fastest.
    """
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = MnistCnn()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            images, targets = batch
            return functional.cross_entropy(self.network(images), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

    class Watch(lightning.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            watch.start()

        def on_train_epoch_end(self, *_: Any) -> None:
            watch.stop()

    runtime = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=arguments.epochs,
        callbacks=[Watch()],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    runtime.fit(Module(), loader_for(arguments))


def accelerate(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    """As in Accelerate's guide: https://huggingface.co/docs/accelerate/basic_tutorials/migration"""
    from accelerate import Accelerator

    runtime = Accelerator(cpu=True)
    network = MnistCnn()
    model, optimizer, loader = runtime.prepare(network, adamw(network), loader_for(arguments))
    for epoch in range(arguments.epochs):
        loader.set_epoch(epoch)
        watch.start()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), targets)
            runtime.backward(loss)
            optimizer.step()
        watch.stop()
    runtime.end_training()


def disttrain(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    """A run from a config file, its metrics, progress and status files included."""
    import dataclasses

    from harness import train_with

    from disttrain.config import build_config
    from disttrain.loop import train

    config = build_config(
        {
            "model": {"name": "mnist_cnn"},
            "data": {"name": "mnist", "path": arguments.data},
            "batch": {"global_batch_size": 2 * arguments.micro_batch_size},
            "optim": {"name": "adamw", "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
            "train": {"epochs": arguments.epochs + 1},
            "checkpoint": {"every_steps": 1_000_000_000},
        }
    )

    def first_samples() -> Any:
        dataset = open_dataset(config.data)
        train_ids = dataset.splits["train"][: arguments.samples]
        return dataclasses.replace(dataset, splits={"train": train_ids, "val": train_ids[:0], "test": train_ids[:0]})

    def epochs(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        for _ in range(arguments.epochs):
            watch.start()
            train(parts, position, position.step + parts.pipeline.plan.steps_per_epoch, hooks)
            watch.stop()

    train_with(epochs, config, Path(arguments.output).with_suffix(".run"), first_samples)


PEERS: dict[str, Callable[[argparse.Namespace, Stopwatch], None]] = {
    "disttrain": disttrain,
    "plain DDP": plain_ddp,
    "Lightning Fabric": fabric,
    "Lightning Trainer": trainer,
    "Accelerate": accelerate,
}


def main() -> None:
    """Train once; rank zero writes samples a second over both ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--micro-batch-size", type=int, required=True)
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    watch = Stopwatch()
    PEERS[arguments.peer](arguments, watch)
    if os.environ["RANK"] == "0":
        counted = watch.seconds[1:]
        speed = arguments.samples * len(counted) / sum(counted)
        Path(arguments.output).write_text(json.dumps({"samples_per_second": speed, "epoch_s": watch.seconds}))


if __name__ == "__main__":
    main()
