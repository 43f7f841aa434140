"""Runs one scenario: starts, disturbs, checks what is left, starts again, until the training has finished."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from . import checkpoints, damage, verify
from .disturb import Answer, answer_to, disturb
from .outcome import Outcome
from .places import Site, site
from .program import ChaosFailure, Program
from .reference import References
from .scenario import TOTAL_STEPS, Act, Damage, Moment, Round, Scenario
from .watch import Mark, RunFiles

START_S, FINISH_S = 240.0, 400.0  # far more than it needs on a busy machine
_NO_PLACE_TO_WRITE = ("fill", "forbid")


class Run:
    """One scenario on its way."""

    def __init__(self, scenario: Scenario, folder: Path, place: Site, outcome: Outcome, has_restarts: bool) -> None:
        self.scenario, self.folder, self.place, self.outcome = scenario, folder, place, outcome
        self.files = RunFiles(place.run_dir)
        self.restarts = scenario.max_restarts if has_restarts else 0
        self.program: Program | None = None
        self.codes: list[int] = []
        self._starts, self._restarts_left = 0, 0
        self._began_at, self._since = Mark(0, 0, 0), Mark(0, 0, 0)
        self._whole, self._floor = 0, 0
        self._acted: float | None = None
        self._latest_holds, self.may_miss_lines = True, False

    def start(self) -> Program:
        """The same command, again."""
        self._starts += 1
        self._began_at = self._since = self.files.mark()
        self._whole = self._floor = checkpoints.newest_whole_step(self.files.checkpoints)
        self._restarts_left = self.restarts
        arguments = self.scenario.overrides()
        if self.restarts:
            arguments += ["--max-restarts", str(self.restarts)]
        commands = self.place.commands(self.scenario.workers, arguments)
        self.program = Program(commands, self.folder, f"start_{self._starts}", self.place.variables())
        return self.program

    def disturb(self, round_: Round) -> None:
        """One round: wait for its moment, act, and see to the answer."""
        program, act = self.program or self.start(), round_.act
        if not self._reach(program, round_.moment, round_.step):
            self._end(program, "nothing", Answer())
            return
        line = self.files.line_since(self._since, restarted=True)
        step = line["step"] if line else 0
        answer = answer_to(act, round_.moment, self.scenario.workers, self._restarts_left)
        self._acted = time.monotonic()
        self.may_miss_lines |= act.kind in _NO_PLACE_TO_WRITE
        disturb(act, program, self.place, self.files)
        self._note(act, round_.moment, step)
        if act.kind == "vanish":
            self._floor = 0
        if self._goes_on(program, answer, step):
            return
        self._end(program, str(act), answer)
        finished = self.files.result() is not None
        if act.kind == "forbid" and not finished:
            self._must_refuse(2, "is not writable")
        self.place.heal()
        if finished:
            return
        if step and act.kind not in _NO_PLACE_TO_WRITE:
            self._count_lost(step, checkpoints.newest_whole_step(self.files.checkpoints), asked=act.kind == "ask")
        for one in round_.damages:
            self._damage(one)

    def _note(self, act: Act, moment: Moment, step: int) -> None:
        self.outcome.kills += act.kind in ("kill", "ask_and_kill")
        self.outcome.kinds.add(act.kind)
        self.outcome.done.append(f"{act} @{moment} {step}")

    def _reach(self, program: Program, moment: Moment, step: int) -> bool:
        """Wait for the moment; False where the program has ended first."""
        if moment == "spawned":
            return program.wait(lambda: len(program.ranks()) == self.scenario.workers, "all ranks", START_S)
        if not program.wait(lambda: len(self.files.first_steps()) > self._since.starts, "the start", START_S):
            return False
        if moment == "recorded":
            return not program.ended()
        epochs: list[int] = []
        left_over = set(checkpoints.half_written(self.files.checkpoints))

        def come() -> bool:
            line = self.files.line_since(self._since, restarted=True)
            if line is None:
                return False
            self._note_back()
            if line["step"] < min(step, TOTAL_STEPS):
                return False
            epochs.append(line["epoch"])
            if moment == "epoch_end":
                return bool(epochs[-1] > epochs[0])
            return moment != "saving" or not left_over.issuperset(checkpoints.half_written(self.files.checkpoints))

        return program.wait(come, f"step {step} ({moment})", FINISH_S) and not program.ended()

    def _goes_on(self, program: Program, answer: Answer, step: int) -> bool:
        """Whether it trains on of itself. False: it has ended, or must."""
        if not (answer.goes_on or answer.restarts):
            return False
        mark, whole = self.files.mark(), checkpoints.newest_whole_step(self.files.checkpoints)
        program.wait(
            lambda: self.files.line_since(mark, restarted=answer.restarts) is not None, "the next step", answer.within_s
        )
        if program.ended():
            return False
        if answer.restarts:
            self._note_back()
            self._restarts_left -= 1
            self._since, first_step = mark, self.files.first_steps()[-1]
            if first_step < whole:
                raise ChaosFailure(f"the restart went on from step {first_step}, though step {whole} was whole on disk")
            self._count_lost(step, first_step, asked=False)
        self._acted = None
        return True

    def _end(self, program: Program, after: str, answer: Answer) -> None:
        """Wait for the end and check all that must hold after it."""
        self.codes = program.wait_for_end(answer.within_s)
        self.program = None
        verify.check_codes(self.codes, answer, self.files.result() is not None, program.output(), after)
        verify.check_starts(self.files.first_steps()[self._began_at.starts :], self._whole, self._floor)
        newest = checkpoints.newest_whole_step(self.files.checkpoints)
        self._latest_holds |= newest > self._whole
        verify.check_checkpoints(self.files, self._floor, self._latest_holds)

    def _count_lost(self, step: int, from_step: int, asked: bool) -> None:
        lost = max(0, step - from_step)
        self.outcome.lost_steps.append(lost)
        verify.check_lost(lost, self.scenario.every_steps, asked)

    def _note_back(self) -> None:
        if self._acted is not None:
            self.outcome.back_s.append(time.monotonic() - self._acted)
            self._acted = None

    def _must_refuse(self, code: int, words: str) -> None:
        """The same command, again, ends with this code and says why."""
        program = self.start()
        codes = program.wait_for_end(START_S)
        self.program = None
        if set(codes) != {code} or words not in program.output():
            raise ChaosFailure(f"it has ended with {codes}; expected: {code}, saying {words!r}\n{program.output()}")
        self.outcome.done.append(f"refused with {code}")

    def _damage(self, one: Damage) -> None:
        """Damage the checkpoints; where none is left whole, the run must be refused, and goes on from a copy."""
        folder, copy = self.files.checkpoints, self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if folder.is_dir():
            shutil.copytree(folder, copy)
        self.outcome.kinds.add(one.kind)
        self.outcome.done.append(damage.apply(one, folder))
        self._latest_holds = False
        if checkpoints.folders(folder) and not checkpoints.newest_whole_step(folder):
            self._must_refuse(5, "can be trusted")
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)

    def finish(self) -> None:
        """Let it finish; a run that already has says so and leaves all as it was."""
        if self.codes and not any(self.codes) and self.program is None:
            return
        program = self.program or self.start()
        program.wait(lambda: self.files.line_since(self._since, restarted=True) is not None, "a step", FINISH_S)
        self._note_back()
        self._end(program, "nothing", Answer(within_s=FINISH_S))


def run_scenario(scenario: Scenario, folder: Path, references: References, has_restarts: bool) -> Outcome:
    """Run it below `folder`; what went wrong is in the outcome's `failure`."""
    outcome = Outcome(scenario)
    began = time.monotonic()
    try:
        reference = references.of(scenario)
        with site(scenario.place, folder) as place:
            run = Run(scenario, folder, place, outcome, has_restarts)
            try:
                for round_ in scenario.rounds:
                    if run.files.result() is None:
                        run.disturb(round_)
                run.finish()
                verify.check_result(run.files, reference, run.may_miss_lines)
            finally:
                if run.program is not None:
                    run.program.kill()
    except ChaosFailure as failure:
        outcome.failure = f"{failure}\n  so far: {'; '.join(outcome.done)}\n  files: {folder}\n{_last_log(folder)}"
    outcome.wall_s = time.monotonic() - began
    return outcome


def _last_log(folder: Path) -> str:
    logs = sorted(folder.glob("start_*.log"), key=lambda path: path.stat().st_mtime)
    return logs[-1].read_text(errors="replace")[-2500:] if logs else ""
