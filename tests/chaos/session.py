"""Many scenarios, a few at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forked import command_server

from .driver import run_scenario
from .outcome import Outcome
from .places import why_not
from .reference import References
from .scenario import draw

# A scenario waits half of its time: for a moment to come, or for an end.
AT_A_TIME = 2


def run_seeds(
    seeds: Iterable[int], folder: Path, report: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Run the scenarios of these seeds below `folder`; a failed one leaves its files there, for a look."""
    references = References(folder)
    command_server()  # it ends with the thread that has started it
    has_restarts = "--max-restarts" in _help()

    def run(seed: int) -> Outcome:
        scenario = draw(seed)
        own = folder / f"seed_{seed}"
        if reason := why_not(scenario.place):
            outcome = Outcome(scenario, skipped=reason)
        else:
            outcome = run_scenario(scenario, own, references, has_restarts)
        if not outcome.failure:
            shutil.rmtree(own, ignore_errors=True)
        report(outcome)
        return outcome

    with _scratch(), ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(run, seeds))


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """TMPDIR for what killed processes leave; its path is short, for the names of sockets."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="chaos", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            del os.environ["TMPDIR"]
            if before is not None:
                os.environ["TMPDIR"] = before


def _help() -> str:
    command = [sys.executable, "-m", "disttrain", "train", "--help"]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout
