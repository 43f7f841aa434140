"""Gradients that travel together in one flat tensor."""

from __future__ import annotations

import torch
from torch import nn

_FIRST_BUCKET_MIB = 1.0
_BUCKET_MIB = 25.0


def make_buckets(parameters: list[nn.Parameter], bucket_mib: float | None) -> list[list[nn.Parameter]]:
    """Buckets in the order in which backward makes the gradients, about the reverse of the parameters'. By default
    the first is small, so that the exchange begins early."""
    buckets: list[list[nn.Parameter]] = []
    size_mib = 0.0
    for parameter in reversed(parameters):
        limit_mib = bucket_mib or (_FIRST_BUCKET_MIB if len(buckets) == 1 else _BUCKET_MIB)
        added_mib = parameter.numel() * parameter.element_size() / 2**20
        if not buckets or size_mib + added_mib > limit_mib or parameter.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            size_mib = 0.0
        buckets[-1].append(parameter)
        size_mib += added_mib
    return buckets


def view_like(parameter: torch.Tensor, flat: torch.Tensor, start: int) -> torch.Tensor:
    """The part of a flat tensor from `start` on in a parameter's shape and memory order, so that copying between the
    two is one pass over both."""
    return torch.as_strided(flat, parameter.shape, torch.empty_like(parameter, device="meta").stride(), start)
