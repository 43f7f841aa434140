"""From a killed rank to the next training step, and what every step pays so that this works.

The first part runs `disttrain train --workers 2 --max-restarts 1` on the real trainer and kills one rank with -9 at a
random step. The second lets a run take turns with itself: with all that watches it (phase timer, request to stop,
comparison of the weights), and without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import (
    REPOSITORY,
    Spread,
    alternate,
    argument_parser,
    describe_machine,
    ratios,
    render_table,
    report,
    run_ranks,
    scratch_folder,
    timed,
    train_with,
)

EVERY_STEPS = 10  # between checkpoints
DEADLINE_S = 120.0
PLANES = ["data.kwargs={count: 4000}", "checkpoint.keep=2", "train.epochs=1000000", "train.eval_every_epochs=0"]


def main() -> None:
    """Both parts, and what they mean."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--kills", type=int, default=8, help="trainings of which a rank is killed")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of blocks of steps")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps in a block")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--as-rank", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        run_rank(arguments, Path(arguments.as_rank))
        return
    machine = describe_machine()
    with scratch_folder() as scratch:
        draw = random.Random(arguments.seed)
        kills = [kill_and_wait(scratch / f"run_{number}", draw) for number in range(-1, arguments.kills)][1:]
        options = [f"--{name}={getattr(arguments, name)}" for name in ("pairs", "steps")]
        watched = json.loads(run_ranks(__file__, [f"--as-rank={scratch}", *options], scratch / "measured.json"))
    seconds = Spread.of([kill["seconds"] for kill in kills])
    lost = Spread.of([kill["steps_lost"] for kill in kills])
    step = Spread.of(watched["step_ms"]["watched"])
    ratio = ratios(watched["step_ms"]["watched"], watched["step_ms"]["bare"])
    rows = [
        ["kill -9 of a rank to the next step, s", seconds.render(".1f"), str(seconds.count)],
        [f"steps trained again, saving every {EVERY_STEPS}", lost.render(".0f"), str(lost.count)],
        ["a step, ms", step.render(".2f"), str(step.count)],
        ["a step, watched / bare", ratio.render(), str(ratio.count)],
        *([f"{name}, % of the time", f"{100 * share:.3f}", "1"] for name, share in watched["shares"].items()),
        ["these together, %", f"{100 * sum(watched['shares'].values()):.3f}", "1"],
    ]
    text = (
        f"PlanesNet's CNN on drawn chips, 2 gloo ranks. Ranks are started again by `--max-restarts`; a rank is killed "
        f"{arguments.kills} times. Medians (least - greatest). The watching, {arguments.pairs} pairs of blocks of "
        f"{arguments.steps} steps in turns in one process group, and its parts timed by themselves.\n\n"
        + render_table(["what", "measured", "times"], rows)
    )
    measured = {"kills": kills, "seconds": seconds, "ratio": ratio, **watched}
    report("recovery", arguments, text, vars(arguments), measured, machine)


# Killing ------------------------------------------------------------------------------------------------------------


def kill_and_wait(run_dir: Path, draw: random.Random) -> dict[str, float]:
    """One training, of which a rank is killed: seconds until the next step, and how many steps are trained again."""
    config = str(REPOSITORY / "configs/synthetic_planes.yaml")
    command = [
        sys.executable, "-m", "disttrain", "train", config, *PLANES, "train.log_every_steps=1",
        f"checkpoint.every_steps={EVERY_STEPS}", "--workers", "2", "--max-restarts", "1", "--run-dir", str(run_dir),
    ]  # fmt: skip
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL, start_new_session=True) as agent:
        try:
            wait_for(lambda: last_step(run_dir) >= EVERY_STEPS + draw.randrange(1, 3 * EVERY_STEPS))
            killed_at, step = time.time(), last_step(run_dir)
            os.kill(draw.choice(ranks_of(agent.pid)), signal.SIGKILL)
            wait_for(lambda: starts(run_dir) == 2 and last_time(run_dir) > killed_at)
            resumed = json.loads((run_dir / "manifest.json").read_text())["first_step"]
            first = next(one for one in lines(run_dir) if one["step"] > resumed and one["time"] > killed_at)
            return {"seconds": first["time"] - killed_at, "steps_lost": max(0, step - resumed)}
        finally:
            agent.terminate()


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the training did not come to that")
        time.sleep(0.01)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """What `metrics.jsonl` holds; its last line may not be whole yet."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def last_step(run_dir: Path) -> int:
    return max((one["step"] for one in lines(run_dir)), default=0)


def last_time(run_dir: Path) -> float:
    return max((one["time"] for one in lines(run_dir)), default=0.0)


def starts(run_dir: Path) -> int:
    """How often the run has been started."""
    path = run_dir / "manifest.json"
    return len(json.loads(path.read_text())["starts"]) if path.exists() else 0


def ranks_of(agent: int) -> list[int]:
    """The processes that the agent has started."""
    children = Path(f"/proc/{agent}/task").glob("*/children")
    return [int(pid) for one in children for pid in one.read_text().split() if is_rank(int(pid))]


def is_rank(pid: int) -> bool:
    return b"\0disttrain\0train\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


# Watching, on each rank ---------------------------------------------------------------------------------------------


class NoPhases:
    """Takes the phase timer's calls and keeps nothing."""

    def enter(self, phase: str, step: int | None = None) -> None: ...


def run_rank(arguments: argparse.Namespace, scratch: Path) -> None:
    """Take the place of `train` in a real run, and let it take turns with and without what watches it."""
    import dataclasses

    from disttrain.config import load_config
    from disttrain.loop import train

    overrides = [*PLANES, "checkpoint.every_steps=1000000000"]
    config = load_config(REPOSITORY / "configs/synthetic_planes.yaml", overrides)
    check_every = config.train.check_weights_every_steps

    def take_turns(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        bare = dataclasses.replace(parts, phases=NoPhases())

        def block(which: Any, is_watched: bool) -> float:
            """Milliseconds a step."""
            hooks.weight_check.every_steps = check_every if is_watched else 0
            hooks.should_stop = (lambda position: hooks.stop()) if is_watched else (lambda position: False)
            parts.comm.barrier()
            seconds = timed(lambda: train(which, position, position.step + arguments.steps, hooks))
            return 1000 * seconds / arguments.steps

        subjects = {"watched": lambda: block(parts, True), "bare": lambda: block(bare, False)}
        step_ms = alternate(subjects, arguments.pairs, 2)
        shares = measure_shares(parts, hooks, check_every, Spread.of(step_ms["watched"]).median / 1000)
        if parts.comm.rank == 0:
            (scratch / "measured.json").write_text(json.dumps({"step_ms": step_ms, "shares": shares}))

    train_with(take_turns, config, scratch / "run")


def measure_shares(parts: Any, hooks: Any, check_every: int, step_s: float) -> dict[str, float]:
    """Each part by itself, as a share of the training time."""
    phases, count = parts.phases, 20_000
    per_step = 8  # phases that a step with one micro-batch enters
    began = time.perf_counter()
    for _ in range(count):
        phases.enter("forward")
    enter_s = (time.perf_counter() - began) / count
    called_s = timed(lambda: [hooks.stop() for _ in range(2000)]) / 2000
    hooks.weight_check.every_steps = check_every
    check_s = min(timed(lambda: hooks.weight_check(0)) for _ in range(50))
    before, began = watching_cpu_s(), time.perf_counter()
    time.sleep(5)
    threads = (watching_cpu_s() - before) / (time.perf_counter() - began)
    return {
        "the phase timer": per_step * enter_s / step_s,
        "the request to stop": called_s / step_s,
        f"the weights, every {check_every} steps": check_s / check_every / step_s,
        "the threads that publish and watch (of one core)": threads,
    }


def watching_cpu_s() -> float:
    """Processor seconds of this process's threads that publish where it stands and watch the others."""
    watching = [one.ident for one in threading.enumerate() if one.name in ("watchdog", "heartbeat") and one.ident]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in watching)  # in ns, not in ticks


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
