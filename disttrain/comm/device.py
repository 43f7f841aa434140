"""Which device a rank computes on."""

from __future__ import annotations

import torch

from disttrain.errors import ConfigError
from disttrain.launch.env import RankEnv


def pick_device(wanted: str, env: RankEnv) -> torch.device:
    """`auto`, `cpu` or `cuda` -> this rank's device, made current. Raises ConfigError for a GPU that is not there."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 0:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise ConfigError(
            f"train.device=cuda, but torch {torch.__version__} ({built}) sees no GPU. Use train.device=cpu or auto, "
            "or look at what nvidia-smi says."
        )
    if env.local_rank >= count:
        raise ConfigError(
            f"local_rank={env.local_rank} has no GPU of its own: this node has {count} and local_world_size="
            f"{env.local_world_size}. Start at most {count} ranks here, or use train.device=cpu."
        )
    device = torch.device("cuda", env.local_rank)
    torch.cuda.set_device(device)
    return device
