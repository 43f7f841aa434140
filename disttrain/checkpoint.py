"""Checkpoints that can be trusted: a folder per step, tensors and JSON only, whole or not there, verified when read."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from disttrain.data.cache import file_sha256
from disttrain.errors import ConfigError, IntegrityError
from disttrain.logs import log
from disttrain.rundir import write_atomically

_TENSORS, _VALUES, _MANIFEST, _LATEST = "tensors.safetensors", "values.json", "manifest.json", "latest"
_PREFIX = "step_"


@dataclass(frozen=True)
class Snapshot:
    """All that a resumed run needs: tensors by name, and plain values."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def checkpoint_dir(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{_PREFIX}{step:08d}"


def save_checkpoint(folder: Path, step: int, snapshot: Snapshot, keep: int) -> Path:
    """Write a checkpoint beside, flush it to the disk, rename it, point `latest` to it, and drop all but the newest
    `keep`. A kill at any instant leaves the earlier ones as they were. Raises OSError (a full disk, say)."""
    target = checkpoint_dir(folder, step)
    beside = folder / f".{target.name}.{uuid.uuid4().hex[:8]}"
    beside.mkdir(parents=True)
    try:
        save_file(snapshot.tensors, beside / _TENSORS)
        (beside / _VALUES).write_text(json.dumps(snapshot.values), encoding="utf-8")
        digests = {name: file_sha256(beside / name) for name in (_TENSORS, _VALUES)}
        (beside / _MANIFEST).write_text(json.dumps({"step": step, "sha256": digests}), encoding="utf-8")
        for path in (*beside.iterdir(), beside):
            _flush(path)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
        _flush(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    write_atomically(folder / _LATEST, target.name + "\n")
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True) if folder.is_dir() else []


def find_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; each one that is not is named in the log, with the reason.

    Raises IntegrityError where there are checkpoints and none of them can be trusted.
    """
    candidates = _newest_first(folder)
    for path in candidates:
        fault = find_fault(path)
        if fault is None:
            return path
        log.warning("checkpoint %s is refused: %s", path, fault)
    if candidates:
        raise IntegrityError(
            f"none of the {len(candidates)} checkpoints in {folder} can be trusted (the reasons are above). Restore "
            "one from a copy, or start anew with --resume never."
        )
    return None


def find_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    try:
        digests = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name in (_TENSORS, _VALUES):
            if file_sha256(path / name) != digests[name]:
                return f"{name} is not what was written (its sha256 differs)"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"{_MANIFEST} is damaged"
    return None


def load_checkpoint(path: Path) -> Snapshot:
    """A checkpoint that `find_checkpoint` or the user named. Raises ConfigError or IntegrityError."""
    if not path.is_dir():
        raise ConfigError(f"--resume {path}: there is no such checkpoint folder.")
    if fault := find_fault(path):
        raise IntegrityError(f"checkpoint {path} is refused: {fault}. Use an earlier one.")
    try:
        return Snapshot(load_file(path / _TENSORS), json.loads((path / _VALUES).read_text(encoding="utf-8")))
    except (OSError, SafetensorError, ValueError) as error:
        raise IntegrityError(f"checkpoint {path} cannot be read: {error}. Use an earlier one.") from None
