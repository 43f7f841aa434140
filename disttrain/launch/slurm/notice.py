"""How long before its time limit Slurm warns a job: what --signal of sbatch says, in the trainer's words."""

from __future__ import annotations

import re

from disttrain.errors import ConfigError

_DEFAULT_S = 60  # sbatch(1)
_MOST_S = 65535
_REQUEUE_S = 10.0  # of that time, for the way out and the requeue


def notice_s(option: str) -> float | None:
    """`checkpoint.notice_s` for a job with this --signal, in seconds; None for a job without one.

    Raises ConfigError for an option that sbatch does not take, or a signal by which ranks are not asked to stop.
    """
    if not option.strip():
        return None
    match = re.fullmatch(r"(?:([BR]{1,2}):)?(?:SIG)?(\w+)(?:@(\d+))?", option.strip())
    if match is None or int(match[3] or 0) > _MOST_S:
        raise ConfigError(f"--signal={option}: it must read like B:USR1@120. Correct it, or leave it out.")
    if match[2] not in ("USR1", "USR2", "TERM", "10", "12", "15"):
        raise ConfigError(
            f"--signal={option}: ranks are asked to stop by USR1, USR2 or TERM. Use --signal=B:USR1@{match[3] or 120}."
        )
    seconds = float(match[3] or _DEFAULT_S)
    return max(seconds - _REQUEUE_S, seconds / 2)
