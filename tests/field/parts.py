"""Datasets and networks as users bring them, in miniature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import disttrain


class Points(torch.utils.data.Dataset[Any]):
    """Points in 8 dimensions; the class is the sign of the first. `item` makes of (x, y) what the dataset gives."""

    def __init__(
        self, count: int = 64, seed: int = 1, item: Callable[[torch.Tensor, int], Any] | None = None, **fields: Any
    ) -> None:
        self.x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
        self.item = item or (lambda x, y: (x, y))
        self.classes: Any = ("left", "right")
        self.__dict__.update(fields)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self.x):
            raise IndexError(index)
        return self.item(self.x[index].clone(), int(self.x[index, 0] > 0))


def net(outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs))


def batchnorm_net(outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, outputs))


def fit(folder: Path, model: Any = None, dataset: Any = None, **options: Any) -> dict[str, Any]:
    """`disttrain.fit` for a few steps, alone in this process."""
    sections: dict[str, Any] = {
        "train": {"epochs": 1, "log_every_steps": 1},
        "batch": {"global_batch_size": 16},
        "optim": {"name": "sgd", "lr": 0.1},
        "data": {"loader_workers": 0},
    }
    for name in list(options):
        if name in sections and isinstance(options[name], dict):
            sections[name] |= options.pop(name)
    model = net() if model is None else model
    dataset = Points() if dataset is None else dataset
    return disttrain.fit(model, dataset, run_dir=folder / "run", quiet=True, **sections, **options)


def strict_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, each strictly JSON."""
    return [strict(line) for line in path.read_text().splitlines()]


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def sign_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")


def refused(folder: Path, error: type[Exception], message: str, **options: Any) -> None:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        fit(folder, **options)
    assert caught.type is error
    assert not (folder / "run").exists()
