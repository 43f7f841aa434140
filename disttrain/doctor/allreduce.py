"""A short real allreduce over all ranks, as a training makes it: whether it works, and how fast."""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from typing import Any

from disttrain.launch.env import RankEnv

SIZES = (4 << 10, 256 << 10, 4 << 20, 32 << 20)
"""Bytes of one allreduce."""
_ROUNDS, _CONNECT_S, _WAIT_S = 5, 30.0, 30.0


def sweep(env: RankEnv, device: str) -> dict[str, Any]:
    """`{backend, seconds}`: the median of a few allreduces of each size. Every rank has to call it.

    Raises DisttrainError or torch's own errors where the ranks cannot connect.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore

    from disttrain.comm.control_plane import ControlPlane
    from disttrain.comm.ddp import nothing_on_standard_output
    from disttrain.comm.device import pick_device
    from disttrain.comm.network_interface import find_interface, told_to_libraries

    place = pick_device(device, env)
    control_plane = ControlPlane(env, _CONNECT_S, _CONNECT_S)
    backend = "nccl" if place.type == "cuda" else "gloo"
    try:
        with nothing_on_standard_output(), told_to_libraries(find_interface(control_plane)):
            dist.init_process_group(
                backend,
                store=PrefixStore("doctor", control_plane.store),
                rank=env.rank,
                world_size=env.world_size,
                timeout=timedelta(seconds=_WAIT_S),
                device_id=place if place.type == "cuda" else None,
            )
        seconds = {}
        for size in SIZES:
            tensor = torch.ones(size // 4, device=place)
            times = []
            for _ in range(_ROUNDS):
                began = time.perf_counter()
                dist.all_reduce(tensor)
                first = float(tensor[0])  # waits for the device
                times.append(time.perf_counter() - began)
                tensor.fill_(1.0)
            if first != env.world_size:
                raise RuntimeError(f"{backend} summed {env.world_size} ones to {first:g}")
            seconds[str(size)] = statistics.median(times)
        dist.barrier()
        dist.destroy_process_group()
    finally:
        control_plane.close()
    return {"backend": backend, "seconds": seconds}
