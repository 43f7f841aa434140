"""Config -> the backend that it names."""

from __future__ import annotations

import torch

from disttrain.comm.base import Comm
from disttrain.comm.board import Board
from disttrain.comm.ddp import DdpComm
from disttrain.config import Config
from disttrain.launch_env import RankEnv


def build_comm(config: Config, env: RankEnv, board: Board, device: torch.device) -> Comm:
    """Connect this rank to the others. Raises DisttrainError where that does not come about."""
    if config.train.backend == "horovod":
        from disttrain.comm.horovod import HorovodComm
        from disttrain.comm.horovod_start import start_horovod

        return HorovodComm(config.comm, env, device, board.ledger, start_horovod(config.comm, env, board))
    return DdpComm(config.comm, board.store, env.rank, env.world_size, device, board.ledger)
