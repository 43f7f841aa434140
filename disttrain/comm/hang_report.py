"""Which ranks block the others, and the report that says so."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from disttrain.comm.failures import render_ranks
from disttrain.comm.heartbeat import Peer
from disttrain.comm.lost_peers import render_position
from disttrain.telemetry.phases import PHASES

_SHOWN = 4  # blocking ranks with their stacks
_SILENT_S = 2.0  # heartbeats come every second
_STATES = {
    "T": "its process is stopped (SIGSTOP)",
    "t": "its process is held by a debugger",
    "D": "its process waits in the kernel, for a disk or a network drive say",
}


def find_blocking_ranks(ranks: Sequence[Peer], waits: Collection[str], max_age_s: float) -> list[Peer]:
    """Of all ranks, those that the others wait for; none where all alike wait for each other.

    Args:
        waits: the phases in which a rank may be waiting for others.
        max_age_s: a rank whose last heartbeat is older counts as frozen or cut off.
    """
    if lost := find_lost(ranks, max_age_s):
        return lost
    present = [one for one in ranks if not one.beat.has_left]
    lowest = min((one.beat.step for one in present), default=0)
    behind = [one for one in present if one.beat.step == lowest]
    busy = [one for one in behind if one.beat.phase not in waits]
    candidates = busy or behind
    first = min((_order(one) for one in candidates), default=0)
    blocking = [one for one in candidates if _order(one) == first]
    return [] if not busy and len(blocking) == len(ranks) else blocking


def find_lost(ranks: Sequence[Peer], max_age_s: float) -> list[Peer]:
    """The ranks whose process is gone or, where there are none, whose heartbeat has stopped."""
    gone = [one for one in ranks if one.is_gone]
    return gone or [one for one in ranks if one.heartbeat_age_s > max_age_s and not one.beat.has_left]


def _order(peer: Peer) -> int:
    return PHASES.index(peer.beat.phase) if peer.beat.phase in PHASES else len(PHASES)


def render_hang(ranks: Sequence[Peer], blocking: Sequence[Peer], waited_s: float, timeout_s: float) -> str:
    """The report. `blocking` as `find_blocking_ranks` gives them, with their stacks."""
    lines = [f"no progress for {waited_s:.0f} s (comm.timeout_s={timeout_s:g}): {_summary(ranks, blocking)}"]
    for one in blocking[:_SHOWN]:
        lines += [f"  {_account(one)}", *(f"    {line}" for line in one.stack.splitlines())]
    if len(blocking) > _SHOWN:
        lines.append(f"  and {len(blocking) - _SHOWN} more")
    named = {one.rank for one in blocking}
    groups: dict[str, list[Peer]] = {}
    for one in ranks:
        if one.rank not in named:
            groups.setdefault("" if one.beat.has_left else render_position(one.beat), []).append(one)
    for where, group in groups.items():
        what = f"{where} for {max(map(_seconds, group)):.0f} s" if where else "ended before"
        lines.append(f"  {render_ranks([one.rank for one in group])}: {what}")
    return "\n".join(lines)


def _summary(ranks: Sequence[Peer], blocking: Sequence[Peer]) -> str:
    if not blocking:
        hosts = ", ".join(sorted({one.beat.host for one in ranks}))
        return (
            "all ranks are alive and wait for each other at the same place, so the network between them is to blame. "
            f"Hosts: {hosts}"
        )
    if len(blocking) == 1:
        return f"{blocking[0].name} holds the others up"
    return f"{render_ranks([one.rank for one in blocking])} hold the others up"


def _account(peer: Peer) -> str:
    """What is known of one rank, up to its stack."""
    at = "; its stack, innermost call last:" if peer.stack else ""
    where = f"{render_position(peer.beat)} for {_seconds(peer):.0f} s"
    if peer.is_gone:
        return f"{peer.name}: its process is gone; last seen {render_position(peer.beat)}{at}"
    state = _STATES.get(peer.state or "")
    if peer.heartbeat_age_s > _SILENT_S:
        why = state or "it is frozen, or its host is cut off"
        return f"{peer.name}: no heartbeat for {peer.heartbeat_age_s:.0f} s, {why}; last seen {where}{at}"
    return f"{peer.name}: {where}{f', {state}' if state else ''}{at}"


def _seconds(peer: Peer) -> float:
    return peer.beat.seconds + peer.heartbeat_age_s


def render_silent_store(host: Peer | None, address: str, silent_s: float) -> str:
    """The report of a rank that can ask nobody. `host`: rank zero, where it hosts the store."""
    if host is None:
        return (
            f"the store at {address} gives no answer for {silent_s:.0f} s: the process that hosts it is frozen, or its "
            "host is cut off"
        )
    why = _STATES.get(host.state or "") or "it is frozen, or its host is cut off"
    lines = [
        f"{host.name}, which hosts the store, gives no answer for {silent_s:.0f} s: {why}",
        f"  last seen {render_position(host.beat)}{'; its stack, innermost call last:' if host.stack else ''}",
        *(f"    {line}" for line in host.stack.splitlines()),
    ]
    return "\n".join(lines)
