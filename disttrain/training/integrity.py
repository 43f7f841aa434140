"""Silent corruption: all ranks hold the same weights after every step, so a rank that differs has been damaged."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from disttrain.comm.base import Comm
from disttrain.errors import IntegrityError

_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@torch.no_grad()
def weights_checksum(model: nn.Module) -> torch.Tensor:
    """int64 scalar on the device: the sum of the bits of all parameters, read as integers, modulo 2^64.

    One read of the weights. Any single flipped bit changes it, as does any change within one word.
    """
    return checksums([parameter.detach() for parameter in model.parameters()]).sum()


@torch.no_grad()
def checksums(tensors: list[torch.Tensor]) -> torch.Tensor:
    """int64 [len(tensors)] on their device: of each the sum of its bits, read as integers, modulo 2^64."""
    if not tensors:
        return torch.zeros(0, dtype=torch.int64)
    return torch.stack([_words(tensor).sum(dtype=torch.int64) for tensor in tensors])


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a tensor as the widest integers that it divides into: fewer, faster additions."""
    flat = torch.as_strided(tensor, (tensor.numel(),), (1,)) if _is_dense(tensor) else tensor.contiguous().view(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).view(-1)
    size = flat.element_size()
    if size < 8 and flat.numel() * size % 8 == 0 and flat.storage_offset() * size % 8 == 0:
        return flat.view(torch.int64)
    return flat.view(_WORDS[size])


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


class WeightCheck:
    """Compares the weights over all ranks, every so many steps and whenever it is called; with 0 steps never."""

    def __init__(self, model: nn.Module, comm: Comm, every_steps: int) -> None:
        self.model, self.comm, self.every_steps = model, comm, every_steps

    def is_due(self, step: int) -> bool:
        """Whether the weights are to be compared after this step, whatever else happens."""
        return bool(self.every_steps) and step % self.every_steps == 0

    def __call__(self, step: int) -> None:
        """Raises IntegrityError on every rank where the weights differ."""
        if self.every_steps:
            check_weights(self.model, self.comm, step)


def check_weights(model: nn.Module, comm: Comm, step: int) -> None:
    """Compare the weights over all ranks. Raises IntegrityError on every rank, naming those that differ."""
    if comm.world_size == 1:
        return
    checksums = torch.zeros(comm.world_size, dtype=torch.int64, device=comm.device)
    checksums[comm.rank] = weights_checksum(model)
    found = comm.all_reduce(checksums).tolist()
    if len(set(found)) == 1:
        return
    (common, holders), *_ = Counter(found).most_common()
    if holders > comm.world_size - holders:
        odd = [rank for rank, checksum in enumerate(found) if checksum != common]
        who = f"{'rank' if len(odd) == 1 else 'ranks'} {', '.join(map(str, odd))} differ{'s' * (len(odd) == 1)}"
        who += f" from the {holders} others"
    else:
        who = f"ranks {', '.join(map(str, range(comm.world_size)))} differ, and none has a majority with it"
    raise IntegrityError(
        f"the ranks' weights are no longer the same after step {step}: {who}. Memory or a device is faulty there, or "
        "code changes weights on one rank only. The checkpoints written before were compared and are sound: look at "
        "that machine, then run the same command again on others."
    )
