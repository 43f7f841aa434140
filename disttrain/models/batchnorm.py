"""BatchNorm whose statistics are those of all ranks together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm layer: by torch's SyncBatchNorm on GPUs, by the one below where that has no kernel."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(model, name, _CpuSyncBatchNorm.like(child))
        else:
            synchronise_batchnorm(child, device)
    return model


class _CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Sums, squares and counts are added up over ranks, in forward and, through autograd, in backward."""

    @classmethod
    def like(cls, layer: nn.modules.batchnorm._BatchNorm) -> _CpuSyncBatchNorm:
        """The same layer, its weights and statistics included."""
        new = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        new.load_state_dict(layer.state_dict())
        return new

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """float [n, C, ...] -> the same shape, normalised per channel."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        count = input.new_full((1,), input.numel() / self.num_features)
        local = torch.cat([input.sum(dims), (input * input).sum(dims), count])
        sums: torch.Tensor = all_reduce(local)
        mean, square = sums[:-1].view(2, -1) / sums[-1]
        variance = square - mean * mean
        if self.running_mean is not None and self.running_var is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            total = sums[-1].detach()
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * total / (total - 1), momentum)
        normalised = (input - mean.view(shape)) * torch.rsqrt(variance.view(shape) + self.eps)
        if self.weight is not None:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised
