"""How a job is asked to stop, and how long its ranks have for that."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""They ask a job to save and to leave."""

_WAY_OUT_S = 2.0


def kill_after_s(notice_s: float) -> float:
    """Seconds after which ranks that were asked to stop are killed: the grace period `checkpoint.notice_s`, in which
    they save, and the way out after the checkpoint."""
    return notice_s + _WAY_OUT_S
