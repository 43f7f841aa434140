"""How many cores a task of a Slurm step has."""

from __future__ import annotations

import re
from collections.abc import Mapping


def cores_of_task(environ: Mapping[str, str], mask: int, local_tasks: int) -> int:
    """Cores for one of `local_tasks` tasks on this node, at least 1.

    Args:
        mask: cores in the process's CPU mask. Where it has all that the job has of the node, the tasks share it; a
            smaller one is the task's own.
    """
    asked, allocated = (_number(environ, name) for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    if asked:
        return max(1, min(asked, mask))
    shared = not allocated or mask >= allocated
    usable = min(mask, allocated) if allocated else mask
    return max(1, usable // max(1, local_tasks) if shared else mask)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if re.fullmatch("[0-9]+", text) else None
