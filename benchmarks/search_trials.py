"""What a trial costs beside the same training alone: the time of its epochs, and the time until its first one.

One search of a few trials on all cores, then each of its trainings again, by `disttrain train TRIAL/config.yaml`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import (
    REPOSITORY,
    Spread,
    argument_parser,
    describe_machine,
    planes_config,
    render_table,
    report,
    scratch_folder,
)

from disttrain.tune.history import Trial, history_of
from disttrain.tune.journal import JOURNAL, read_journal

EPOCHS = 6
SMALL = [f"train.epochs={EPOCHS}", "data.test_fraction=0.60", "data.val_fraction=0.05"]


def main() -> None:
    """Search, train again, and compare."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--trials", type=int, default=6, help="trials of the search")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="ranks of each trial")
    arguments = parser.parse_args()
    machine = describe_machine()
    name, path, what = planes_config(arguments.data)
    search = {"space": {"optim.lr": {"loguniform": [3.0e-4, 3.0e-2]}}, "scheduler": "none", "concurrency": 1}
    with scratch_folder() as scratch:
        (scratch / "search.json").write_text(json.dumps(search))
        words = ["tune", name, str(scratch / "search.json"), *SMALL, *path, "--output", str(scratch / "out")]
        words += ["--trials", str(arguments.trials), "--workers-per-trial", str(arguments.workers), "--quiet"]
        disttrain(words)
        trials = list(history_of(read_journal(scratch / "out" / JOURNAL)).trials.values())
        ratios, starts = [], []
        for trial in trials[1:]:
            config, alone = scratch / f"out/trials/{trial.name}/config.yaml", scratch / f"alone_{trial.name}"
            disttrain(["train", str(config), "--run-dir", str(alone), "--quiet"])
            ratios.append(epochs_s(scratch / f"out/trials/{trial.name}") / epochs_s(alone))
            starts.append(start_s(trial))
    rows = [
        [f"epochs 2 to {EPOCHS} of a trial / of the same training alone", Spread.of(ratios).render()],
        ["start of a trial after the first: until its first step, s", Spread.of(starts).render(".1f")],
        ["places idle until the last trial begins", f"{idle(trials):.3f}"],
    ]
    text = (
        f"{what}: {len(ratios)} trials of {arguments.workers} workers, one at a time. Medians (least - greatest).\n\n"
    )
    measured = {"ratios": ratios, "starts_s": starts, "idle": idle(trials)}
    report(
        "search_trials", arguments, text + render_table(["what", "measured"], rows), vars(arguments), measured, machine
    )


def disttrain(words: Sequence[str]) -> None:
    """A command, as a user runs it."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run([sys.executable, "-m", "disttrain", *words], env=environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"disttrain {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def epochs_s(run_dir: Path) -> float:
    """Seconds from the first evaluation to the last one."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    times = [line["time"] for line in lines if line.get("split") == "val"]
    return float(times[-1] - times[0])


def start_s(trial: Trial) -> float:
    """Seconds from its begin to its first step: those to its first report, less those of a later epoch."""
    assert trial.began is not None
    times = [one.time for one in trial.reports]
    later = sorted(after - before for before, after in itertools.pairwise(times[:-1]))
    return times[0] - trial.began - later[len(later) // 2]


def idle(trials: Sequence[Trial]) -> float:
    """Of the one place, from the begin of the first trial to that of the last one."""
    begins = [one.began or 0.0 for one in trials]
    busy = sum((one.ended or 0.0) - (one.began or 0.0) for one in trials[:-1])
    return 1 - busy / (begins[-1] - begins[0])


if __name__ == "__main__":
    main()
