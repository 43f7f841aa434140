"""How fast searches find good settings, how busy they keep their places, and what the driver costs.

The curves are those of real trainings: `--record N` trains N random points of configs/search/asha.yaml to their end by
`disttrain tune`. Many searches are then replayed over them; ASHA's decisions there are Ray's own scheduler's.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import REPOSITORY, RESULTS, Spread, argument_parser, describe_machine, render_table, report, scratch_folder

from disttrain.config import Config
from disttrain.tune.history import FINISHED, History, history_of
from disttrain.tune.journal import read_journal
from disttrain.tune.search_file import build_search
from disttrain.tune.space import Space

CURVES = RESULTS / "search_curves.json"
EPOCHS = 9
# PlanesNet with a small training share, so that an epoch takes seconds on two cores.
SMALL = [f"train.epochs={EPOCHS}", "data.test_fraction=0.80", "data.val_fraction=0.10"]
RANDOM_TRIALS = 20


def main() -> None:
    """Record, or replay and measure."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--record", type=int, default=0, metavar="N", help="train N points and keep their curves")
    parser.add_argument("--searches", type=int, default=9, help="searches to replay")
    parser.add_argument("--slots", type=int, default=2, help="trials at a time in a replay")
    parser.add_argument("--trials", type=int, default=1000, help="trials of the search that only follows curves")
    parser.add_argument("--places", type=int, default=100, help="how many of them run at a time")
    arguments = parser.parse_args()
    machine = describe_machine()
    if arguments.record:
        record(arguments.record, arguments.data)
        return
    curves = json.loads(CURVES.read_text())["curves"]
    searches = [replay(curves, arguments.slots, seed) for seed in range(arguments.searches)]
    with scratch_folder() as scratch:
        scale = simulate(scratch, curves, arguments.trials, arguments.places)
        resumed_s = resume(scratch, curves, arguments.trials)
    ratio = Spread.of([one["asha_epochs"] / one["random_epochs"] for one in searches])
    idle = Spread.of([one["idle"] for one in searches])
    rows = [
        ["epochs that ASHA needs for the best of random search / those of random search", ratio.render(".2f")],
        ["places idle between the first and the last trial, ASHA", idle.render()],
        ["driver's processor time a result, ms, by quarters of the search", ", ".join(f"{one:.1f}" for one in scale)],
        [f"resuming {arguments.trials:,} recorded trials: to the next new trial, s", f"{resumed_s:.1f}"],
    ]
    text = (
        f"{len(curves)} recorded trainings of {EPOCHS} epochs; {arguments.searches} replayed searches on "
        f"{arguments.slots} places, random search with {RANDOM_TRIALS} trials; a search of {arguments.trials:,} trials "
        f"on {arguments.places} places that only follow these curves. Medians (least - greatest).\n\n"
        + render_table(["what", "measured"], rows)
    )
    measured = {"searches": searches, "driver_ms_a_result": scale, "resume_s": resumed_s}
    report("search", arguments, text, vars(arguments), measured, machine)


def record(count: int, data: str | None) -> None:
    """A real random search without early stopping, whose journal has the curves."""
    search = {**yaml_of("configs/search/asha.yaml"), "scheduler": "none", "trials": count}
    with scratch_folder() as scratch:
        (scratch / "search.json").write_text(json.dumps(search))
        path = [f"data.path={Path(data) / 'planesnet/planesnet.zip'}"] if data else []
        words = ["tune", str(REPOSITORY / "configs/planesnet.yaml"), str(scratch / "search.json"), *SMALL, *path]
        environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "disttrain", *words, "--output", str(scratch / "out"), "--resume"]
        subprocess.run(command, env=environ, check=True)
        events = read_journal(scratch / "out/journal.jsonl")
    history = history_of(events)
    done = [one for one in history.trials.values() if one.state == FINISHED]
    curves = [
        {"values": one.values, "accuracy": [report.value for report in one.reports], "seconds": epoch_seconds(one)}
        for one in done
    ]
    CURVES.write_text(json.dumps({"machine": describe_machine(), "config": SMALL, "curves": curves}, indent=1) + "\n")


def yaml_of(name: str) -> dict[str, Any]:
    """A shipped search file as it is written."""
    from disttrain.config.text import parse_yaml

    return dict(parse_yaml((REPOSITORY / name).read_text(), name))


def epoch_seconds(trial: Any) -> list[float]:
    """Seconds of each epoch of a trial, its start in the first one."""
    times = [trial.began, *(one.time for one in trial.reports)]
    return [round(after - before, 3) for before, after in itertools.pairwise(times)]


@dataclass
class Place:
    """What runs in one place of a replayed search."""

    curve: dict[str, Any]
    trial: Any
    epoch: int
    ready: float


def replay(curves: Sequence[dict[str, Any]], slots: int, seed: int) -> dict[str, float]:
    """One pair of searches over the same points in the same order: what random search finds with its trials, and the
    epochs after which ASHA has it too (it goes on drawing where random search ends)."""
    order = list(curves)
    random.Random(seed).shuffle(order)
    target = max(one["accuracy"][-1] for one in order[:RANDOM_TRIALS])
    asha, history = scheduler(), History()
    running: list[Place] = []
    waiting, now, epochs = list(order), 0.0, 0
    busy, best, reached = 0.0, 0.0, 0
    while waiting or running:
        while waiting and len(running) < slots:
            curve = waiting.pop(0)
            trial = SimpleNamespace(trial_id=f"{len(order) - len(waiting):04d}")
            asha.on_trial_add(None, trial)
            running.append(Place(curve, trial, 0, now + curve["seconds"][0]))
        place = min(running, key=lambda one: one.ready)
        busy += (place.ready - now) * len(running)
        now = place.ready
        value = place.curve["accuracy"][place.epoch]
        place.epoch, epochs = place.epoch + 1, epochs + 1
        best = max(best, value)
        reached = reached or (epochs if best >= target else 0)
        decision = asha.on_trial_result(None, place.trial, {"epoch": place.epoch, "value": value})
        if decision == "STOP" or place.epoch == EPOCHS:
            running.remove(place)
        else:
            place.ready = now + place.curve["seconds"][place.epoch]
        if not waiting and len(running) < slots:
            break  # from here on places are idle for want of points
    assert history.trials == {}
    spent = float(reached or epochs)
    return {
        "target": target, "asha_epochs": spent, "reached": float(bool(reached)),
        "random_epochs": float(RANDOM_TRIALS * EPOCHS), "idle": 1 - busy / (now * slots),
    }  # fmt: skip


def scheduler() -> Any:
    """ASHA as a search has it."""
    from disttrain.tune.ray_schedulers import build_scheduler

    search = build_search({"space": {"optim.lr": {"uniform": [0.1, 0.2]}}})

    def on_copy(*_: Any) -> Any:
        raise AssertionError

    return build_scheduler(search, EPOCHS, History(), Space({}), on_copy)


def simulate(scratch: Path, curves: Sequence[dict[str, Any]], trials: int, places: int) -> list[float]:
    """A real search under Ray whose trials follow curves: the driver's processor milliseconds a result, by quarters."""
    code = "import search_simulated; search_simulated.main()"  # as a module that Ray's workers can import too
    settings = {"curves": curves, "trials": trials, "places": places, "output": str(scratch / "scale")}
    (scratch / "settings.json").write_text(json.dumps(settings))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "benchmarks")))}
    subprocess.run([sys.executable, "-c", code, str(scratch / "settings.json")], env=environ, check=True)
    return [float(one) for one in json.loads((scratch / "scale/cpu.json").read_text())]


def resume(scratch: Path, curves: Sequence[dict[str, Any]], trials: int) -> float:
    """Seconds from a driver's start on the journal of a search of so many trials until it has drawn the next one."""
    from disttrain.tune.ray_schedulers import build_scheduler
    from disttrain.tune.search import open_search

    search = build_search({**yaml_of("configs/search/asha.yaml"), "trials": trials + 1})
    began = time.perf_counter()
    with open_search(scratch / "scale", Config(), search, resume=True) as one:
        build_scheduler(search, EPOCHS, one.history, one.space, lambda *_: None)  # type: ignore[arg-type]
        one.start(["resumed"])
        assert one.next_trial() is not None
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
