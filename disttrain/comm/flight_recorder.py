"""torch's flight recorder: the last collective operations of a rank, each with its state and the Python stack."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

_PREFIX = "flight_recorder_rank_"
_ENTRIES = 2000
# torch 2.9 renamed these; the older name, where the user has set it, is obeyed by torch under either.
_BUFFER_SIZE = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
_DUMP_ON_TIMEOUT = ("TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_FR_DUMP_ON_TIMEOUT")
_TEMP_FILE = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")


def enable(logs_dir: Path) -> None:
    """Switch on NCCL's recorder, also for the dump that NCCL itself makes when one of its operations times out.

    What the user has set in the environment stands. To be called before the process group is made.
    """
    if not torch.cuda.is_available():  # gloo's recorder needs nothing
        return
    for names, value in (
        (_BUFFER_SIZE, str(_ENTRIES)),
        (_DUMP_ON_TIMEOUT, "1"),
        (_TEMP_FILE, str(logs_dir.absolute() / _PREFIX)),
    ):
        if not any(name in os.environ for name in names):
            os.environ[names[0]] = value


def dump(logs_dir: Path, rank: int) -> Path | None:
    """Write what has been recorded on this rank to a file that torch's own tool reads; None where that is nothing."""
    for trace in _traces():
        content = pickle.loads(trace)  # of this process's own making
        if content.get("entries"):
            path = logs_dir / f"{_PREFIX}{rank}"  # the tool takes the rank from the end of the name
            path.write_bytes(pickle.dumps(_with_named_groups(content), protocol=2))
            return path
    return None


def _with_named_groups(content: dict[str, Any]) -> dict[str, Any]:
    """gloo's trace (torch 2.15) describes its one group without the name that its entries use: the tool stumbles."""
    groups = content.get("pg_config", {})
    if list(groups) == [""]:
        names = {tuple(entry["process_group"]) for entry in content["entries"]}
        groups = {name: {**groups[""], "name": name, "desc": what} for name, what in names}
    return {**content, "pg_config": groups}


def how_to_read(path: Path) -> str:
    """The command that shows the dumps of all ranks together."""
    return f"torchfrtrace {path.parent} --prefix {_PREFIX}"


def _traces() -> list[bytes]:
    c10d = torch._C._distributed_c10d
    names = ("_dump_nccl_trace", "_dump_fr_trace")  # a torch without NCCL lacks the first, an older one the second
    return [getattr(c10d, name)() for name in names if hasattr(c10d, name)]
