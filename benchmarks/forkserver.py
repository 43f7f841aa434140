"""Ranks that are forked from a process which has imported everything, against ranks that are new processes.

In turns: a short training on two workers, its wall time and the processor time of all its processes; and the time from
`kill -9` of a rank to the next training step. `PYTHON_EXEC`, torchrun's variable, with another name of the same Python
has torch start the ranks as new processes.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from harness import REPOSITORY, Spread, argument_parser, describe_machine, ratios, render_table, report, scratch_folder
from recovery import kill_and_wait

ANOTHER_NAME = f"{Path(sys.executable).parent}/./{Path(sys.executable).name}"
WAYS: dict[str, dict[str, str]] = {"forked": {}, "new": {"PYTHON_EXEC": ANOTHER_NAME}}


def main() -> None:
    """Measure both ways in turns."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=8)
    arguments = parser.parse_args()
    machine = describe_machine()
    measured: dict[str, dict[str, list[float]]] = {}
    with scratch_folder() as scratch:
        for number in range(-1, arguments.pairs):
            for way in list(WAYS) if number % 2 == 0 else reversed(WAYS):
                with mock.patch.dict(os.environ, WAYS[way]):
                    found = short_training(scratch / f"{way}_{number}")
                    if number < 0:  # the first pair fills the caches
                        continue
                    kill = kill_and_wait(scratch / f"killed_{way}_{number}", random.Random(number))
                for name, value in {**found, "kill -9 of a rank to the next step, s": kill["seconds"]}.items():
                    measured.setdefault(name, {}).setdefault(way, []).append(value)
    rows = [
        [name, *(Spread.of(ways[way]).render(".2f") for way in WAYS), ratios(ways["forked"], ways["new"]).render(".2f")]
        for name, ways in measured.items()
    ]
    text = (
        f"`disttrain train synthetic_planes.yaml --workers 2`, ranks forked from a process that has imported what they "
        f"need, and ranks that are new processes; {arguments.pairs} pairs, in turns. Medians (least - greatest).\n\n"
        + render_table(["what", "forked", "new processes", "forked / new"], rows)
    )
    report("forkserver", arguments, text, {"pairs": arguments.pairs}, measured, machine)


def short_training(run_dir: Path) -> dict[str, float]:
    """Three steps and the evaluation, from the command to its end."""
    config = str(REPOSITORY / "configs/synthetic_planes.yaml")
    command: list[Any] = [sys.executable, "-m", "disttrain", "train", config, "train.max_steps=3", "--quiet"]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    before, began = cpu_s(), time.perf_counter()
    subprocess.run(
        [*command, "--workers", "2", "--run-dir", run_dir], env=environ, stdout=subprocess.DEVNULL, check=True
    )
    return {"three steps: wall, s": time.perf_counter() - began, "three steps: processor time, s": cpu_s() - before}


def cpu_s() -> float:
    """Processor seconds of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
