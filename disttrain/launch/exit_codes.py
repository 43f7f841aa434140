"""What a rank's exit code says: to the job, and about running it again."""

from __future__ import annotations

import signal

from disttrain.errors import PeerLostError, Preempted
from disttrain.launch.stop import STOP_SIGNALS

_INTERRUPTED = 128 + signal.SIGINT


def job_exit_code(code: int) -> int:
    """The exit code of a job one of whose ranks ended with `code`, negative where a signal killed it."""
    if code >= 0:
        return code
    if -code in STOP_SIGNALS:  # it came before the rank could listen
        return Preempted.exit_code
    return _INTERRUPTED if -code == signal.SIGINT else PeerLostError.exit_code


def may_run_again(code: int) -> bool:
    """Whether the ranks may be started again after this exit code of the job without a change by the user.

    1 is a crash that nobody explained: it may have been an accident.
    """
    return code == 1 or (code >= 128 and code not in (Preempted.exit_code, _INTERRUPTED))


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    return {one.value: one.name for one in signal.Signals}.get(number, f"signal {number}")


def describe(code: int) -> str:
    """What happened to a rank, as the rest of a sentence that begins with its name."""
    if code < 0:
        return f"was killed by {signal_name(-code)}"
    return "lost a peer" if code == PeerLostError.exit_code else f"ended with exit code {code}"
