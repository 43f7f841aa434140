"""Config -> the backend that it names."""

from __future__ import annotations

import torch

from disttrain.comm.base import Comm
from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.ddp import DdpComm
from disttrain.comm.network_interface import find_interface
from disttrain.config import Config
from disttrain.launch.env import RankEnv


def build_comm(config: Config, env: RankEnv, control_plane: ControlPlane, device: torch.device) -> Comm:
    """Connect this rank to the others. Raises DisttrainError where that does not come about."""
    if config.train.backend == "horovod":
        from disttrain.comm.horovod import HorovodComm
        from disttrain.comm.horovod_init import start_horovod

        return HorovodComm(
            config.comm, env, device, control_plane.phases, start_horovod(config.comm, env, control_plane)
        )
    ends = control_plane.store, env.rank, env.world_size, device, control_plane.phases, find_interface(control_plane)
    if config.batch.shards:
        from disttrain.comm.tree_comm import TreeComm

        return TreeComm(config, *ends)
    return DdpComm(config.comm, *ends)
