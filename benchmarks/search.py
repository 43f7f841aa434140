"""How fast searches find good settings, how busy they keep their places, and what the driver costs.

The curves are those of real trainings: `--record N` trains N random points of configs/search/asha.yaml to their end.
Many searches are then replayed over them; ASHA's decisions there are those of Ray's own scheduler.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import (
    REPOSITORY,
    RESULTS,
    Spread,
    argument_parser,
    describe_machine,
    planes_config,
    render_table,
    report,
    scratch_folder,
)
from search_replay import idle_of_synchronous, replay

from disttrain.commands.start import PRELOAD
from disttrain.config import Config, load_config
from disttrain.tune.journal import JOURNAL, read_journal
from disttrain.tune.points import build_points
from disttrain.tune.search_file import build_search
from disttrain.tune.space import parse_space, with_values
from disttrain.tune.training import Training, TrainingHost, train_command
from disttrain.tune.trial_config import base_config, write_run_config

CURVES = RESULTS / "search_curves.json"
EPOCHS = 9
# PlanesNet with a small training share, so that an epoch takes seconds on two cores.
SMALL = [f"train.epochs={EPOCHS}", "data.test_fraction=0.86", "data.val_fraction=0.06"]
RANDOM_TRIALS = 15
AT_A_TIME = 2  # trainings that are recorded, of one worker each


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
    seeds = range(arguments.searches)
    searches = [replay(curves, arguments.slots, RANDOM_TRIALS, seed) for seed in seeds]
    with scratch_folder() as scratch:
        scale = simulate(scratch, curves, arguments.trials, arguments.places)
        idle = idle_places(scratch / "scale", arguments.places)
        resumed_s = resume(scratch, arguments.trials)
    ratio = Spread.of([one["ratio"] for one in searches])
    waits = Spread.of([idle_of_synchronous(curves, arguments.slots, seed) for seed in seeds])
    rows = [
        ["epochs that ASHA needs for the best of random search / those of random search", ratio.render(".2f")],
        [f"places idle until the last trial begins, ASHA, {arguments.places} places under Ray", f"{idle:.3f}"],
        [f"places idle, synchronous halving of the same curves on {arguments.slots} places", waits.render(".3f")],
        ["driver's processor time a result, ms, by quarters of the search", ", ".join(f"{one:.1f}" for one in scale)],
        [f"resuming {arguments.trials:,} recorded trials: to the next new trial, s", f"{resumed_s:.1f}"],
    ]
    text = (
        f"{len(curves)} recorded trainings of {EPOCHS} epochs; {arguments.searches} replayed searches on "
        f"{arguments.slots} places, random search with {RANDOM_TRIALS} trials; a search of {arguments.trials:,} trials "
        f"on {arguments.places} places that only follow these curves. Medians (least - greatest).\n\n"
        + render_table(["what", "measured"], rows)
    )
    measured = {"searches": searches, "idle": idle, "driver_ms_a_result": scale, "resume_s": resumed_s}
    report("search", arguments, text, vars(arguments), measured, machine)


def record(count: int, data: str | None) -> None:
    """Real trainings of random points to their end, two at a time, without Ray; those of an earlier start are kept."""
    search = build_search(yaml_of("configs/search/asha.yaml"))
    name, path, _ = planes_config(data)
    host = TrainingHost([*PRELOAD, "torch.distributed.run", "disttrain.launch.agent.elastic"], 1)
    curves = json.loads(CURVES.read_text())["curves"] if CURVES.exists() else []
    with scratch_folder() as scratch, contextlib.closing(host):
        base = base_config(load_config(name, [*SMALL, *path]), search)
        points = build_points(search, parse_space(search.space, base), [])
        waiting = [points.draw(number) for number in range(len(curves), count)]
        running: list[tuple[dict[str, Any], Training, float]] = []
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                number = count - len(waiting)
                run_dir = scratch / f"{number:04d}"
                values = waiting.pop(0) or {}
                write_run_config(run_dir, with_values(base, values))
                running.append((values, host.start(run_dir, train_command(run_dir)), time.time()))
            time.sleep(0.1)
            for one in [one for one in running if one[1].poll() is not None]:
                running.remove(one)
                curves.append(curve_of(*one))
                made = {"machine": describe_machine(), "config": SMALL, "curves": curves}
                CURVES.write_text(json.dumps(made, indent=1) + "\n")


def curve_of(values: dict[str, Any], training: Training, began: float) -> dict[str, Any]:
    """The accuracy of each epoch, and its seconds; the training's start is in the first one."""
    if training.poll():
        raise SystemExit(f"{training.run_dir}: {training.why()}")
    text = (training.run_dir / "metrics.jsonl").read_text()
    lines = [line for line in map(json.loads, text.splitlines()) if line.get("split") == "val"]
    times = [began, *(line["time"] for line in lines)]
    seconds = [round(after - before, 3) for before, after in itertools.pairwise(times)]
    return {"values": values, "accuracy": [line["accuracy"] for line in lines], "seconds": seconds}


def yaml_of(name: str) -> dict[str, Any]:
    """A shipped search file as it is written."""
    from disttrain.config.text import parse_yaml

    return dict(parse_yaml((REPOSITORY / name).read_text(), name))


def simulate(scratch: Path, curves: Sequence[dict[str, Any]], trials: int, places: int) -> list[float]:
    """A real search under Ray whose trials follow curves: the driver's processor milliseconds a result, by quarters."""
    code = "import search_simulated; search_simulated.main()"  # as a module that Ray's workers can import too
    settings = {"curves": curves, "trials": trials, "places": places, "output": str(scratch / "scale")}
    (scratch / "settings.json").write_text(json.dumps(settings))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "benchmarks")))}
    subprocess.run([sys.executable, "-c", code, str(scratch / "settings.json")], env=environ, check=True)
    return [float(one) for one in json.loads((scratch / "scale/cpu.json").read_text())]


def idle_places(output: Path, places: int) -> float:
    """The share of places without a trial between the begin of the first and of the last one, by the journal."""
    events = read_journal(output / JOURNAL)
    begins = [one["time"] for one in events if one["event"] == "begin"]
    first, last = begins[0], begins[-1]
    ends = {one["trial"]: one["time"] for one in events if one["event"] == "end"}
    spans = [(one["time"], min(last, ends[one["trial"]])) for one in events if one["event"] == "begin"]
    return 1 - sum(end - begin for begin, end in spans) / ((last - first) * places)


def resume(scratch: Path, trials: int) -> float:
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
