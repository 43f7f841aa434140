"""Which of the other ranks is lost, and the words for where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch.distributed import DistError

from disttrain.comm.failures import Notices, render_ranks
from disttrain.comm.signs import Peer, Sign, SignsOfLife
from disttrain.ledger import PHASES, WAITING

_NAME_WITHIN_S = 2.5
_SILENT_S = 2.0  # signs come every second
_POLL_S = 0.1
_GLOSSES = {"data": " (waiting for data)", WAITING: " (waiting for the other ranks)"}


def place(sign: Sign) -> str:
    """`in phase data (waiting for data) of step 57`."""
    at = f", at the stage {sign.stage!r}" if sign.stage else ""
    if sign.phase == PHASES[0]:
        return f"in phase {sign.phase}{at}"
    return f"in phase {sign.phase}{_GLOSSES.get(sign.phase, '')} of step {sign.step}{at}"


def describe_missing(peers: Sequence[Peer], missing: Sequence[int], timeout_s: float, is_over: bool) -> str | None:
    """Why there is no use in waiting for some of the `missing` ranks; None where there is.

    A rank that has never given a sign of life counts as lost once the time for its arrival `is_over`.
    """
    by_rank = {one.rank: one for one in peers}
    known = [by_rank[rank] for rank in missing if rank in by_rank]
    for peer in known:
        if peer.is_gone:
            return f"{peer.name} was lost {place(peer.sign)}: its process is gone"
        if peer.sign.has_left:
            return f"{peer.name} has ended {place(peer.sign)}"
        if peer.silent_s > timeout_s:
            return f"{peer.name} was lost {place(peer.sign)}: no sign of life for {peer.silent_s:.0f} s"
    never = [rank for rank in missing if rank not in by_rank]
    if never and is_over:
        return f"{render_ranks(never)} of the job never gave a sign of life: look at what the launcher says of them"
    return None


def name_lost(signs: SignsOfLife, text: str, notices: Notices) -> str:
    """`text`, which says that a connection broke, with the rank that is lost: known at once on the same machine, and
    within seconds elsewhere. Where another rank has spoken already, or none is missing, the text as it is."""
    deadline = time.monotonic() + _NAME_WITHIN_S
    try:
        while time.monotonic() < deadline:
            if notices.failures():
                return text
            signs.refresh()
            if lost := [one for one in signs.peers() if one.is_gone]:
                return _named(lost, text)
            time.sleep(_POLL_S)
    except DistError:  # whoever hosted the store is gone, with its last sign
        hosts = [one for one in signs.peers() if one.rank == 0 and signs.hosted_by_rank_zero]
        return _named([one for one in hosts if not one.sign.has_left], text)
    return _named([one for one in signs.peers() if one.silent_s > _SILENT_S and not one.sign.has_left], text)


def _named(lost: Sequence[Peer], text: str) -> str:
    names = "; ".join(f"{one.name} was lost {place(one.sign)}" for one in lost)
    return f"{names}: {text}" if lost else text
