"""Which of the other ranks is lost, and the words for where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch.distributed import DistError

from disttrain.comm.failures import FailureLog, render_ranks
from disttrain.comm.heartbeat import Beat, Heartbeat, Peer
from disttrain.telemetry.phases import PHASES, WAITING

_NAME_WITHIN_S = 2.5
_SILENT_S = 2.0  # heartbeats come every second
_POLL_S = 0.1
_GLOSSES = {"data": " (waiting for data)", WAITING: " (waiting for the other ranks)"}


def render_position(beat: Beat) -> str:
    """`in phase data (waiting for data) of step 57`."""
    at = f", at the stage {beat.stage!r}" if beat.stage else ""
    if beat.phase == PHASES[0]:
        return f"in phase {beat.phase}{at}"
    return f"in phase {beat.phase}{_GLOSSES.get(beat.phase, '')} of step {beat.step}{at}"


def describe_missing(peers: Sequence[Peer], missing: Sequence[int], timeout_s: float, is_over: bool) -> str | None:
    """Why there is no use in waiting for some of the `missing` ranks; None where there is.

    A rank whose heartbeat was never seen counts as lost once the time for its arrival `is_over`.
    """
    by_rank = {one.rank: one for one in peers}
    known = [by_rank[rank] for rank in missing if rank in by_rank]
    for peer in known:
        if peer.is_gone:
            return f"{peer.name} was lost {render_position(peer.beat)}: its process is gone"
        if peer.beat.has_left:
            return f"{peer.name} has ended {render_position(peer.beat)}"
        if peer.heartbeat_age_s > timeout_s:
            return f"{peer.name} was lost {render_position(peer.beat)}: no heartbeat for {peer.heartbeat_age_s:.0f} s"
    never = [rank for rank in missing if rank not in by_rank]
    if never and is_over:
        return f"{render_ranks(never)} of the job never sent a heartbeat: look at what the launcher says of them"
    return None


def name_lost_peer(heartbeat: Heartbeat, text: str, failure_log: FailureLog) -> str:
    """`text`, which says that a connection broke, with the rank that is lost: known at once on the same machine, and
    within seconds elsewhere. Where another rank has spoken already, or none is missing, the text as it is."""
    deadline = time.monotonic() + _NAME_WITHIN_S
    try:
        while time.monotonic() < deadline:
            if failure_log.failures():
                return text
            heartbeat.refresh()
            if lost := [one for one in heartbeat.peers() if one.is_gone]:
                return _named(lost, text)
            time.sleep(_POLL_S)
    except DistError:  # whoever hosted the store is gone, with its last heartbeat
        hosts = [one for one in heartbeat.peers() if one.rank == 0 and heartbeat.hosted_by_rank_zero]
        return _named([one for one in hosts if not one.beat.has_left], text)
    return _named([one for one in heartbeat.peers() if one.heartbeat_age_s > _SILENT_S and not one.beat.has_left], text)


def _named(lost: Sequence[Peer], text: str) -> str:
    names = "; ".join(f"{one.name} was lost {render_position(one.beat)}" for one in lost)
    return f"{names}: {text}" if lost else text
