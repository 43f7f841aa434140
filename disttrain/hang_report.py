"""Who holds the others up, and the report that says so."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from disttrain.comm.failures import render_ranks
from disttrain.comm.lost import place
from disttrain.comm.signs import Peer
from disttrain.ledger import PHASES

_SHOWN = 4  # culprits with their stacks
_SILENT_S = 2.0  # signs come every second
_STATES = {
    "T": "its process is stopped (SIGSTOP)",
    "t": "its process is held by a debugger",
    "D": "its process waits in the kernel, for a disk or a network drive say",
}


def find_culprits(ranks: Sequence[Peer], waits: Collection[str], silent_s: float) -> list[Peer]:
    """Of all ranks, those that the others wait for; none where all alike wait for each other.

    Args:
        waits: the phases in which a rank may be waiting for others.
        silent_s: from how many seconds on a rank without a sign of life counts as frozen or cut off.
    """
    if lost := find_lost(ranks, silent_s):
        return lost
    present = [one for one in ranks if not one.sign.has_left]
    lowest = min((one.sign.step for one in present), default=0)
    behind = [one for one in present if one.sign.step == lowest]
    busy = [one for one in behind if one.sign.phase not in waits]
    candidates = busy or behind
    first = min((_order(one) for one in candidates), default=0)
    culprits = [one for one in candidates if _order(one) == first]
    return [] if not busy and len(culprits) == len(ranks) else culprits


def find_lost(ranks: Sequence[Peer], silent_s: float) -> list[Peer]:
    """Those whose process is gone or, where there are none, that give no sign of life."""
    gone = [one for one in ranks if one.is_gone]
    return gone or [one for one in ranks if one.silent_s > silent_s and not one.sign.has_left]


def _order(peer: Peer) -> int:
    return PHASES.index(peer.sign.phase) if peer.sign.phase in PHASES else len(PHASES)


def render_hang(ranks: Sequence[Peer], culprits: Sequence[Peer], waited_s: float, timeout_s: float) -> str:
    """The report. `culprits` as `find_culprits` gives them, with their stacks."""
    lines = [f"no progress for {waited_s:.0f} s (comm.timeout_s={timeout_s:g}): {_summary(ranks, culprits)}"]
    for one in culprits[:_SHOWN]:
        lines += [f"  {_account(one)}", *(f"    {line}" for line in one.stack.splitlines())]
    if len(culprits) > _SHOWN:
        lines.append(f"  and {len(culprits) - _SHOWN} more")
    named = {one.rank for one in culprits}
    groups: dict[str, list[Peer]] = {}
    for one in ranks:
        if one.rank not in named:
            groups.setdefault("" if one.sign.has_left else place(one.sign), []).append(one)
    for where, group in groups.items():
        what = f"{where} for {max(map(_seconds, group)):.0f} s" if where else "ended before"
        lines.append(f"  {render_ranks([one.rank for one in group])}: {what}")
    return "\n".join(lines)


def _summary(ranks: Sequence[Peer], culprits: Sequence[Peer]) -> str:
    if not culprits:
        hosts = ", ".join(sorted({one.sign.host for one in ranks}))
        return (
            "all ranks are alive and wait for each other at the same place, so the network between them is to blame. "
            f"Hosts: {hosts}"
        )
    if len(culprits) == 1:
        return f"{culprits[0].name} holds the others up"
    return f"{render_ranks([one.rank for one in culprits])} hold the others up"


def _account(peer: Peer) -> str:
    """What is known of one rank, up to its stack."""
    at = "; its stack, innermost call last:" if peer.stack else ""
    where = f"{place(peer.sign)} for {_seconds(peer):.0f} s"
    if peer.is_gone:
        return f"{peer.name}: its process is gone; last seen {place(peer.sign)}{at}"
    state = _STATES.get(peer.state or "")
    if peer.silent_s > _SILENT_S:
        why = state or "it is frozen, or its host is cut off"
        return f"{peer.name}: no sign of life for {peer.silent_s:.0f} s, {why}; last seen {where}{at}"
    return f"{peer.name}: {where}{f', {state}' if state else ''}{at}"


def _seconds(peer: Peer) -> float:
    return peer.sign.seconds + peer.silent_s


def render_silent_board(host: Peer | None, address: str, silent_s: float) -> str:
    """The report of a rank that can ask nobody. `host`: rank zero, where it hosts the board."""
    if host is None:
        return (
            f"the notice board at {address} gives no answer for {silent_s:.0f} s: the process that hosts it is frozen, "
            "or its host is cut off"
        )
    why = _STATES.get(host.state or "") or "it is frozen, or its host is cut off"
    lines = [
        f"{host.name}, which hosts the notice board, gives no answer for {silent_s:.0f} s: {why}",
        f"  last seen {place(host.sign)}{'; its stack, innermost call last:' if host.stack else ''}",
        *(f"    {line}" for line in host.stack.splitlines()),
    ]
    return "\n".join(lines)
