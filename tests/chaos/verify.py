"""What must hold whenever a training has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from . import checkpoints
from .disturb import Answer
from .program import ChaosFailure
from .reference import Reference, comparable
from .watch import RunFiles

_IN_FLIGHT = 1  # checkpoints that may still be on their way to the disk when a rank is killed


def check_codes(codes: Sequence[int], answer: Answer, finished: bool, output: str, after: str) -> None:
    """It has finished, or ended with a code that is right after the act, and said why without a traceback."""
    for code in codes:
        if code == 0 and not finished:
            raise ChaosFailure(f"after {after} it has ended with {codes} and not finished")
        if code != 0 and code not in answer.codes and not answer.refuses:
            raise ChaosFailure(f"after {after} it has ended with {codes}, not {sorted(answer.codes) or 0}")
    if "Traceback (most recent call last)" in output:
        raise ChaosFailure(f"after {after} it has ended with {codes} and a traceback")
    if answer.refuses and any(codes) and "disttrain: error:" not in output:
        raise ChaosFailure(f"after {after} it has ended with {codes} and no message")


def check_starts(first_steps: Sequence[int], whole: int, floor: int) -> None:
    """The first start went on from the newest checkpoint that was whole before it, no later one from before `floor`."""
    if first_steps and (first_steps[0] != whole or min(first_steps) < floor):
        raise ChaosFailure(f"starts went on from steps {list(first_steps)}, though step {whole} was whole on disk")


def check_lost(lost: int, every_steps: int, asked: bool) -> None:
    """Nothing is lost beyond the interval; nothing at all by a run that was asked to stop."""
    if asked and lost > 0:
        raise ChaosFailure(f"asked to stop, it has lost {lost} steps")
    if lost > (1 + _IN_FLIGHT) * every_steps:
        raise ChaosFailure(f"{lost} steps are lost, though a checkpoint is due every {every_steps}")


def check_checkpoints(files: RunFiles, floor: int, latest_holds: bool) -> None:
    """What was whole still is, and `latest` names a whole one."""
    newest = checkpoints.newest_whole_step(files.checkpoints)
    if newest < floor:
        raise ChaosFailure(f"the newest whole checkpoint is of step {newest}, before this start it was {floor}")
    if latest_holds and (fault := checkpoints.latest_fault(files.checkpoints)):
        raise ChaosFailure(fault)


def check_result(files: RunFiles, reference: Reference, may_miss_lines: bool) -> None:
    """The weights and every line of `metrics.jsonl` are those of the undisturbed run, each line once; nothing half
    written is left."""
    result = files.result()
    if result is None:
        raise ChaosFailure("it has ended with 0 and left no result")
    if result["weights_sha256"] != reference.weights_sha256:
        raise ChaosFailure("the weights are not those of the undisturbed run")
    if left := checkpoints.half_written(files.checkpoints):
        raise ChaosFailure(f"half-written checkpoints are left: {[path.name for path in left]}")
    lines = comparable(files.lines())
    counts = Counter(key for key, _ in lines)
    if twice := sorted(key for key, count in counts.items() if count > 1):
        raise ChaosFailure(f"metrics.jsonl has more than one line for {twice[:5]}")
    missing = sorted(reference.lines.keys() - counts.keys())
    if missing and not may_miss_lines:
        raise ChaosFailure(f"metrics.jsonl lacks {len(missing)} lines: {missing[:5]}")
    for key, values in lines:
        expected = reference.lines.get(key)
        if values != expected:
            raise ChaosFailure(f"metrics.jsonl has {values} for {key}, undisturbed it has {expected}")
