"""What came of scenarios, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from .scenario import Scenario


@dataclass
class Outcome:
    """What came of a scenario."""

    scenario: Scenario
    kills: int = 0
    done: list[str] = field(default_factory=list)
    """Acts and damages as they happened."""
    kinds: set[str] = field(default_factory=set)
    """The kinds among them."""
    lost_steps: list[int] = field(default_factory=list)
    """Steps that had to be trained again, for each act that ended a start."""
    back_s: list[float] = field(default_factory=list)
    """Seconds from an act to the next new step of a later start."""
    failure: str = ""
    skipped: str = ""
    """Why it cannot run here."""
    wall_s: float = 0.0

    @property
    def state(self) -> str:
        """One word."""
        return "skipped" if self.skipped else "FAILED" if self.failure else "ok"

    def replay(self) -> str:
        """The command that runs this scenario again."""
        return f"make chaos N=1 SEED={self.scenario.seed}"


def render_table(outcomes: Sequence[Outcome]) -> str:
    """One line a scenario, and one for all."""
    lines = [f"{'seed':>10} {'':7} {'kills':>5} {'lost steps':12} {'going on after, s':22} {'wall s':>6}  scenario"]
    for one in outcomes:
        lost, back = " ".join(map(str, one.lost_steps)), " ".join(f"{s:.1f}" for s in one.back_s)
        figures = f"{one.scenario.seed:>10} {one.state:7} {one.kills:>5} {lost:12} {back:22} {one.wall_s:6.1f}"
        lines.append(f"{figures}  {one.scenario}")
    return "\n".join([*lines, _summary(outcomes)])


def _summary(outcomes: Sequence[Outcome]) -> str:
    lost = [steps for one in outcomes for steps in one.lost_steps]
    back = [seconds for one in outcomes for seconds in one.back_s]
    counts = {state: sum(one.state == state for one in outcomes) for state in ("ok", "FAILED", "skipped")}
    return (
        f"{', '.join(f'{count} {state}' for state, count in counts.items())}; "
        f"{sum(one.kills for one in outcomes)} kills; steps lost: "
        f"median {median(lost or [0]):g}, most {max(lost, default=0)}; "
        f"going on after: median {median(back or [0]):.1f} s, longest {max(back, default=0):.1f} s"
    )


def render_failures(outcomes: Sequence[Outcome]) -> str:
    """What went wrong, and how to see it again."""
    return "\n\n".join(
        f"seed {one.scenario.seed} failed; see it again with: {one.replay()}\n  {one.scenario}\n  {one.failure}"
        for one in outcomes
        if one.failure
    )
