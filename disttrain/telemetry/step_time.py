"""Where the time of the steps went on each rank, and which rank the others waited for."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import torch

from disttrain.telemetry.phases import PHASES, WAITING

SHOWN_PHASES = ("data", "forward", "backward", WAITING, "optimizer")
LINE_PHASES = (*SHOWN_PHASES, "logging")
"""The phases of a step in a line of `metrics.jsonl`."""

_OWN = [SHOWN_PHASES.index(phase) for phase in SHOWN_PHASES if phase != WAITING]
_SLOW = 1.25  # times the median of the others' own work: less is noise on most machines
_SHOWN_RANKS = 8
_BIN = 0.01  # width of a bin of step times, as a logarithm: a percent


def own_seconds(seconds: dict[str, float]) -> list[float]:
    """The seconds of `PhaseTimer.take_seconds` in the order of `SHOWN_PHASES`."""
    assert set(SHOWN_PHASES) <= set(PHASES)
    return [seconds[phase] for phase in SHOWN_PHASES]


def step_milliseconds(before: dict[str, float], now: dict[str, float], steps: int) -> dict[str, float]:
    """Mean time of a step in each of its phases between two readings of `PhaseTimer.total_seconds`, in ms."""
    return {phase: round(1000 * (now[phase] - before[phase]) / max(1, steps), 4) for phase in LINE_PHASES}


class StepDurations:
    """How long single steps of this rank take: those since the last line, and all since the start."""

    def __init__(self) -> None:
        self._since: list[float] = []
        self._bins: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """One more step, by the host's clock."""
        self._since.append(seconds)
        self._bins[math.floor(math.log(max(seconds, 1e-9)) / _BIN)] += 1

    def take(self) -> dict[str, float]:
        """`p50`, `p95` and `max` of the steps since the last call, in ms; empty where there were none."""
        ordered, self._since = sorted(self._since), []
        if not ordered:
            return {}
        last = len(ordered) - 1
        found = {"p50": ordered[last // 2], "p95": ordered[math.ceil(0.95 * last)], "max": ordered[last]}
        return {name: round(1000 * seconds, 4) for name, seconds in found.items()}

    def overall(self) -> dict[str, float]:
        """`p50`, `p95` and `p99` of all steps, in ms, to a percent; empty where there were none."""
        found: dict[str, float] = {}
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            left = share * self._bins.total()
            for at in sorted(self._bins):
                left -= self._bins[at]
                if left <= 0:
                    found[name] = round(1000 * math.exp((at + 0.5) * _BIN), 4)
                    break
        return found


def find_slow_rank(table: torch.Tensor) -> tuple[int, float] | None:
    """The rank whose own work, waiting left out, took longest, and how many times the median of the others' that is.

    `table` is [world_size, len(SHOWN_PHASES)] in seconds. None where no rank is slow.
    """
    work = table[:, _OWN].sum(1).tolist()
    if len(work) < 2:
        return None
    rank = max(range(len(work)), key=work.__getitem__)
    others = statistics.median(work[:rank] + work[rank + 1 :])
    ratio = work[rank] / others if others > 0 else 1.0
    return (rank, ratio) if ratio >= _SLOW else None


def render_step_times(table: torch.Tensor, steps: int, epoch: int) -> str:
    """The table in milliseconds a step, the ranks with the most work of their own first, and the slow rank named.

    On GPUs these are the times of the host, which runs ahead of the device.
    """
    ranks = sorted(range(len(table)), key=lambda rank: -float(table[rank, _OWN].sum()))
    title = f"epoch {epoch}: ms per step"
    lines = ["  ".join([title, *(f"{phase:>9}" for phase in SHOWN_PHASES)])]
    for rank in ranks[:_SHOWN_RANKS]:
        cells = "  ".join(f"{1000 * seconds / max(1, steps):9.2f}" for seconds in table[rank].tolist())
        lines.append(f"{f'rank {rank}':>{len(title)}}  {cells}")
    if len(ranks) > _SHOWN_RANKS:
        lines.append(f"  ... and {len(ranks) - _SHOWN_RANKS} ranks with less work")
    if slow := find_slow_rank(table):
        lines.append(f"rank {slow[0]} is slow: its own work takes {slow[1]:.2f} times that of the other ranks")
    return "\n".join(lines)
