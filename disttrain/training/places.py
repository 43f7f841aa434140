"""Where the ranks of a run are: told by each on the store, shown by rank zero in the first lines of a run."""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import Any, NamedTuple, cast

import torch
from torch.distributed import Store

from disttrain.comm.failures import render_ranks
from disttrain.training.manifest import device_name

_MOST_HOSTS = 16


class Place(NamedTuple):
    """One rank's host, and what it computes on."""

    host: str
    device: str


def tell_place(store: Store, rank: int, device: torch.device) -> None:
    """Put this rank's place on the store; once all ranks have met after it, `read_places` finds them all."""
    name = device_name(device) if device.type == "cuda" else f"cpu ({torch.get_num_threads()} thread(s))"
    store.set(f"place/{rank}", json.dumps([socket.gethostname(), name]))


def read_places(store: Store, world_size: int) -> list[Place]:
    """By rank."""
    texts = cast(Any, store).multi_get([f"place/{rank}" for rank in range(world_size)])
    return [Place(*json.loads(text)) for text in texts]


def render_places(places: list[Place]) -> str:
    """A line for each host: `node0  ranks 0-7  8 x NVIDIA H100`."""
    hosts = list(dict.fromkeys(place.host for place in places))
    rows = []
    for host in hosts[:_MOST_HOSTS]:
        ranks = [rank for rank, place in enumerate(places) if place.host == host]
        devices = Counter(places[rank].device for rank in ranks)
        rows.append((host, render_ranks(ranks), ", ".join(f"{count} x {name}" for name, count in devices.items())))
    widths = [max(len(row[at]) for row in rows) for at in (0, 1)]
    lines = [f"  {host:<{widths[0]}}  {ranks:<{widths[1]}}  {devices}" for host, ranks, devices in rows]
    if len(hosts) > _MOST_HOSTS:
        lines.append(f"  ... and {len(hosts) - _MOST_HOSTS} more hosts")
    return "\n".join(lines)
