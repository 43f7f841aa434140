"""`make soak`: many requests, good and bad, to a real server; then servers that are replaced under load.

No good request fails, every good answer is that of `disttrain predict`, memory is flat once the server is warm.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from integration.commands import DISTTRAIN
from integration.rolling import Replicas, behind_nginx
from integration.serving import Clients, chips, other_model, serving, until

from disttrain.files import replace_folder

from .client import ask

_IMAGES, _CONNECTIONS = 64, 16
_MOST_GROWTH_MIB = 16
"""Between the second fifth of the requests and the last: the heap of many threads takes its time."""
_CONFIG = """
data: {name: synthetic_planes, kwargs: {count: 600, seed: 1}}
batch: {global_batch_size: 50}
train: {epochs: 2}
"""


def main() -> int:
    """Run it; 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rolls", type=int, default=5, help="how often both replicas behind nginx are replaced")
    parser.add_argument("--model", type=Path, help="a model directory of 20x20 RGB chips (default: trained here)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="disttrain-soak-") as made:
        folder = Path(made)
        model = _model(arguments.model, folder)
        faults = _soak(model, folder, arguments.requests, arguments.seed)
        if arguments.rolls:
            faults += _roll(model, folder, arguments.rolls)
    for fault in faults[:20]:
        print(f"FAULT: {fault}")
    print(f"{len(faults)} faults")
    return int(bool(faults))


def _model(given: Path | None, folder: Path) -> Path:
    if given is None:
        (folder / "config.yaml").write_text(_CONFIG)
        _run("train", str(folder / "config.yaml"), "--run-dir", str(folder / "run"), "--quiet")
        given = folder / "run" / "model"
    shutil.copytree(given, folder / "model")
    return folder / "model"


def _run(*arguments: str) -> None:
    subprocess.run([*DISTTRAIN, *arguments], check=True, stdout=sys.stderr)


def _expected(model: Path, folder: Path, images: list[bytes]) -> list[dict[str, Any]]:
    (folder / "images").mkdir()
    for number, data in enumerate(images):
        (folder / f"images/{number:03d}.png").write_bytes(data)
    _run("predict", str(model), str(folder / "images"), "--output", str(folder / "expected.csv"), "--quiet")
    with (folder / "expected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _soak(model: Path, folder: Path, count: int, seed: int) -> list[str]:
    images = chips(_IMAGES)
    expected = _expected(model, folder, images)
    with serving(model, "--quiet") as server:
        process = psutil.Process(server.process.pid)
        memory: list[float] = []

        def look(answers: int) -> None:
            if answers * 100 // count >= len(memory):
                memory.append(process.memory_info().rss / 2**20)

        seen = ask(server.port, images, expected, count, seed, _CONNECTIONS, look)
        waiting = server.client.get("/metrics").text
        outcome = server.stop()
    fifths = [memory[at * len(memory) // 5 : (at + 1) * len(memory) // 5] for at in range(5)]
    means = [sum(one) / max(1, len(one)) for one in fifths]
    statuses = ", ".join(f"{number} x {status or 'gone away'}" for status, number in sorted(seen.statuses.items()))
    print(f"{count} requests in {seen.seconds:.0f} s over {_CONNECTIONS} connections, seed {seed}: {statuses}")
    print(f"MiB of memory, means of the fifths: {', '.join(f'{mean:.0f}' for mean in means)}")
    faults = list(seen.faults)
    if means[-1] - means[1] > _MOST_GROWTH_MIB:
        faults.append(f"memory has grown from {means[1]:.0f} to {means[-1]:.0f} MiB")
    if "disttrain_waiting_images 0.0" not in waiting:
        faults.append("images wait although nobody asks")
    if outcome.code or "Traceback" in outcome.err:
        faults.append(f"the server has ended with {outcome.code}: {outcome.err[-2000:]}")
    return faults


def _all_others(replicas: Replicas, before: set[str]) -> bool:
    return not before & replicas.versions()


def _roll(model: Path, folder: Path, times: int) -> list[str]:
    other_model(model, folder / "other")
    kept = {name: folder / f"kept-{name}" for name in ("first", "other")}
    shutil.copytree(model, kept["first"])
    shutil.copytree(folder / "other", kept["other"])
    with behind_nginx(model, folder) as replicas, Clients(replicas.url, {}) as clients:
        until(lambda: len(clients.answers) > 20, "requests are answered")
        for time in range(times):
            before = replicas.versions()
            for index in range(len(replicas.servers)):
                replicas.restart(index)
            shutil.copytree(kept["other" if time % 2 == 0 else "first"], folder / "next")
            replace_folder(folder / "next", model)
            until(partial(_all_others, replicas, before), "the other model serves")
        seen = len(clients.answers)
        until(lambda: len(clients.answers) > seen + 20, "requests are answered")
    print(f"{times} times two servers behind nginx replaced in turn, and the model switched: {len(clients.answers)} "
          f"requests, {len(clients.failures)} failed, {len(set(clients.answers))} models")  # fmt: skip
    return list(clients.failures)


if __name__ == "__main__":
    sys.exit(main())
