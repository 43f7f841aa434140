"""What is done to a running training, and how it may answer."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass

from processes import state

from .places import Site
from .program import Program
from .scenario import SHORT_TIMEOUT_S, Act, Moment
from .watch import RunFiles

_STOPPED, _LOST = 143, 144
_HANG_S = 180.0
"""After this long it counts as hung: far more than it needs on a busy machine."""


@dataclass(frozen=True)
class Answer:
    """How a training may take an act. It may always have been faster, and finish."""

    codes: frozenset[int] = frozenset()
    """Exit codes it may end with."""
    refuses: bool = False
    """Whether it may end with any other code and one clear message."""
    goes_on: bool = False
    """Whether it may go on without a new start."""
    restarts: bool = False
    """Whether the elastic agent starts the ranks anew."""
    within_s: float = _HANG_S
    """Longest time to the end, or to the next step."""


def answer_to(act: Act, moment: Moment, workers: int, restarts_left: int) -> Answer:
    """What is right after an act."""
    if act.kind == "kill":
        whole = act.target in ("all", "agent") or workers == 1
        if restarts_left and not whole:
            return Answer(restarts=True)
        return Answer(frozenset({137}) if whole else frozenset({_LOST}))
    if act.kind in ("ask", "ask_and_kill"):
        codes = {_STOPPED, 137, _LOST} if act.kind == "ask_and_kill" else {_STOPPED}
        if moment in ("spawned", "recorded"):
            # Before a rank listens, the signal ends it: all codes of 128 and more say "run it again".
            codes |= {_LOST, *(128 + {"TERM": 15, "USR1": 10, "USR2": 12}[name] for name in act.signals)}
        return Answer(frozenset(codes), restarts=bool(restarts_left))
    if act.kind == "freeze":
        return Answer(frozenset({_LOST}), within_s=SHORT_TIMEOUT_S + _HANG_S)
    if act.kind == "cut":
        return Answer(frozenset({_LOST}), within_s=SHORT_TIMEOUT_S + _HANG_S)
    if act.kind in ("fill", "forbid"):
        return Answer(refuses=True)
    return Answer(goes_on=True)


def disturb(act: Act, program: Program, place: Site, files: RunFiles) -> list[int]:
    """Do it. Returns the ids of the processes it was done to."""
    if act.kind == "fill":
        place.fill()
    elif act.kind == "forbid":
        place.forbid()
    elif act.kind == "jump":
        place.jump(act.amount_s)
    elif act.kind == "cut":
        place.cut()
    elif act.kind == "vanish":
        shutil.rmtree(files.checkpoints, ignore_errors=True)
    else:
        return _signal(act, program)
    return []


def _signal(act: Act, program: Program) -> list[int]:
    pids = program.targets(act.target)
    if act.kind == "kill":
        program.send(pids, "KILL")
    elif act.kind == "ask":
        program.send(pids, *act.signals)
    elif act.kind == "ask_and_kill":
        program.send(pids, *act.signals)
        pids = program.targets("all")
        program.send(pids, "KILL")
    else:
        program.send(pids, "STOP")
        if act.kind == "pause":
            _hold(pids, act.amount_s)
            program.send(pids, "CONT")
    return pids


def _hold(pids: list[int], seconds: float) -> None:
    """Until they have been stopped for so long."""
    deadline = time.monotonic() + 5
    while not all(state(pid) in ("T", "Z", "X") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(seconds)
