"""Where the time of the steps went on each rank, and which rank the others waited for."""

from __future__ import annotations

import statistics

import torch

from disttrain.telemetry.phases import PHASES, WAITING

SHOWN_PHASES = ("data", "forward", "backward", WAITING, "optimizer")
LINE_PHASES = (*SHOWN_PHASES, "logging")
"""The phases of a step in a line of `metrics.jsonl`."""

_OWN = [SHOWN_PHASES.index(phase) for phase in SHOWN_PHASES if phase != WAITING]
_SLOW = 1.25  # times the median of the others' own work: less is noise on most machines
_SHOWN_RANKS = 8


def own_seconds(seconds: dict[str, float]) -> list[float]:
    """The seconds of `PhaseTimer.take_seconds` in the order of `SHOWN_PHASES`."""
    assert set(SHOWN_PHASES) <= set(PHASES)
    return [seconds[phase] for phase in SHOWN_PHASES]


def step_milliseconds(before: dict[str, float], now: dict[str, float], steps: int) -> dict[str, float]:
    """Mean time of a step in each of its phases between two readings of `PhaseTimer.total_seconds`, in ms."""
    return {phase: round(1000 * (now[phase] - before[phase]) / max(1, steps), 4) for phase in LINE_PHASES}


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
