"""`make chaos N=20 SEED=7`: N scenarios of the seeds SEED, SEED + 1 ..., and a table of what came of them."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from .outcome import Outcome, render_failures, render_table
from .scenario import draw
from .session import run_seeds


def main() -> int:
    """Returns 1 where a scenario has failed."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=20, metavar="N")
    parser.add_argument("seed", nargs="?", type=int, help="of the first scenario (default: from the clock)")
    parser.add_argument("--list", action="store_true", help="say what would happen, and do nothing")
    arguments = parser.parse_args()
    first = int(time.time()) if arguments.seed is None else arguments.seed
    seeds = range(first, first + arguments.count)
    if arguments.list:
        for seed in seeds:
            print(f"{seed:>10}  {draw(seed)}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is mounted and started is taken down either way
    folder = Path(tempfile.mkdtemp(prefix="disttrain-chaos-"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    print(f"scenarios {first} to {first + arguments.count - 1}, below {folder}", flush=True)

    def say(outcome: Outcome) -> None:
        print(f"seed {outcome.scenario.seed}: {outcome.state} {outcome.skipped} ({outcome.wall_s:.0f} s)", flush=True)
        print(render_failures([outcome]), end="", flush=True)

    outcomes = run_seeds(seeds, folder, say)
    print(render_table(outcomes))
    if failures := render_failures(outcomes):
        print(failures)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
