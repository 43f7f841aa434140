"""Run as a script: processes that save in a loop, killed one after the other; what each kill leaves, a line each."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch.distributed import HashStore

from disttrain.checkpoint import CheckpointValues, CheckpointWriter, Score, find_checkpoint, load_checkpoint
from disttrain.config.sections import CheckpointConfig

WORLD_SIZE = 2


def save_forever(folder: Path) -> None:
    """Two ranks that go on from the newest checkpoint."""
    found = find_checkpoint(folder)
    step = load_checkpoint(found).values.step if found else 0
    store, config = HashStore(), CheckpointConfig(keep=2)
    ranks = [CheckpointWriter(folder, store, rank, WORLD_SIZE, config) for rank in range(WORLD_SIZE)]
    while True:
        step += 1
        loss = 1 + step % 7  # the best one changes now and then
        for rank, writer in enumerate(ranks):
            shard = {f"w{rank}": torch.full((40_000,), float(step))}
            writer.save(shard, CheckpointValues(step, validation=Score(loss)))


def look(folder: Path, whole: bool) -> object:
    """What changes when a save begins or, with `whole`, when one is whole."""
    latest = folder / "latest"
    if whole:
        return latest.read_text() if latest.exists() else ""
    return {path.name for path in folder.iterdir()}


def kill_one(folder: Path, after_s: float, whole: bool) -> dict[str, object]:
    """Start one, kill it some time after it has begun a save (with `whole`: has made one), and look."""
    before, deadline = look(folder, whole), time.monotonic() + 60
    child = os.fork()
    if child == 0:
        try:
            save_forever(folder)
        finally:
            os._exit(1)
    while look(folder, whole) == before and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(after_s)
    latest = (folder / "latest").read_text().strip() if (folder / "latest").exists() else None
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    left = [path.name for path in folder.glob(".step_*")]
    found = find_checkpoint(folder)
    content = load_checkpoint(found) if found else None
    return {
        "killed": os.WIFSIGNALED(status),
        "latest": latest,
        "found": found.name if found else None,
        "half_written": len(left),
        "step": content.values.step if content else None,
        "values": sorted({float(one) for tensor in content.tensors.values() for one in tensor.unique()})
        if content
        else [],
        "files": sorted(content.tensors) if content else [],
    }


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir()
    draw = random.Random(1)
    for kill in range(kills):
        print(json.dumps(kill_one(folder, draw.uniform(0, 0.05), whole=kill % 2 == 1)), flush=True)


if __name__ == "__main__":
    main()
