"""Which device a rank computes on."""

from __future__ import annotations

import os
import socket

import torch

from disttrain.comm.control_plane import ControlPlane
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
    # Each task of srun or mpirun may see GPUs of its own, from number 0; ranks of one agent see the same ones.
    if env.local_rank >= count and env.launcher in ("torchrun", "none"):
        raise ConfigError(
            f"local_rank={env.local_rank} has no GPU of its own: this node has {count} and local_world_size="
            f"{env.local_world_size}. Start at most {count} ranks here, or use train.device=cpu."
        )
    device = torch.device("cuda", env.local_rank % count)
    torch.cuda.set_device(device)
    return device


def check_own_gpu(control_plane: ControlPlane, device: torch.device) -> None:
    """Raise RanksFailed on every rank where two of them would compute on one physical GPU."""
    if control_plane.env.world_size > 1:
        control_plane.run_on_all("gpu", lambda: _claim(control_plane, device) if device.type == "cuda" else None)


def _claim(control_plane: ControlPlane, device: torch.device) -> None:
    env = control_plane.env
    properties = torch.cuda.get_device_properties(device)
    uuid = str(properties.uuid)  # its number says nothing: in a bound task every GPU is number 0
    owner = int(control_plane.store.compare_set(f"gpu/{uuid}", "", str(env.rank)))
    if owner != env.rank:
        raise ConfigError(
            f"ranks {owner} and {env.rank} on {socket.gethostname()} would both compute on {uuid} ({properties.name}): "
            f"each rank needs a GPU of its own. local_world_size={env.local_world_size}, and this rank sees "
            f"{torch.cuda.device_count()} (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}). "
            "Start fewer ranks here, or bind one GPU to each (srun --gpus-per-task=1)."
        )
