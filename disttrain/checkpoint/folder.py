"""One checkpoint on disk: its files, the manifest that vouches for them, and how it is read back.

step_00000100/tensors_0.safetensors ...   one file for each rank that had something to write
step_00000100/values.json                 step, scaler, figures
step_00000100/manifest.json               size and sha256 of every file, and its own sha256
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from disttrain.checkpoint.values import CheckpointValues
from disttrain.errors import ConfigError, IntegrityError
from disttrain.files import file_sha256

VALUES, MANIFEST = "values.json", "manifest.json"
_SUFFIX = ".safetensors"
_FORMAT = 2
_PREFIX = "step_"
_OWN_DIGEST = "manifest_sha256"


@dataclass(frozen=True)
class Snapshot:
    """All that a resumed run needs: tensors by name, and plain values."""

    tensors: dict[str, torch.Tensor]
    """Those of a checkpoint are read from the disk when they are used."""
    values: CheckpointValues


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says about a file."""

    bytes: int
    sha256: str


def checkpoint_dir(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{_PREFIX}{step:08d}"


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's folder name speaks of; None where it is not named like one."""
    match = re.fullmatch(rf"{_PREFIX}(\d{{8,}})", path.name)
    return int(match[1]) if match else None


def unfinished_dir(folder: Path, step: int, name: str) -> Path:
    """Where a checkpoint of that step is written until it is whole, or lies until it is removed."""
    return folder / f".{_PREFIX}{step:08d}.{name}"


def remove_unfinished(folder: Path) -> None:
    """Remove what saves of earlier starts have left."""
    for path in folder.glob(f".{_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def shard_name(rank: int) -> str:
    """The file that a rank writes."""
    return f"tensors_{rank}{_SUFFIX}"


def write_text(path: Path, text: str) -> FileRecord:
    """Write a file and flush it to the disk. Raises OSError."""
    content = text.encode()
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(len(content), hashlib.sha256(content).hexdigest())


def write_manifest(path: Path, step: int, world_size: int, files: Mapping[str, FileRecord]) -> None:
    """The last file of a checkpoint. Raises OSError."""
    content = {
        "format": _FORMAT,
        "step": step,
        "world_size": world_size,
        "files": {name: asdict(record) for name, record in files.items()},
    }
    write_text(path / MANIFEST, json.dumps({**content, _OWN_DIGEST: _digest(content)}, indent=1) + "\n")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    try:
        for name, record in _read_manifest(path).items():
            size = (path / name).stat().st_size
            if record.bytes != size:
                return f"{name} is not what was written (it has {size:,} bytes instead of {record.bytes:,})"
            if file_sha256(path / name) != record.sha256:
                return f"{name} is not what was written (its sha256 differs)"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except _ManifestFault as fault:
        return str(fault)
    return None


class _ManifestFault(Exception):
    """Why a manifest cannot be trusted."""


def _read_manifest(path: Path) -> dict[str, FileRecord]:
    """The files of a checkpoint. Raises OSError or _ManifestFault."""
    try:
        content: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if content.pop(_OWN_DIGEST) != _digest(content):
            raise _ManifestFault(f"{MANIFEST} is damaged (its sha256 differs)")
        if content["format"] != _FORMAT:
            raise _ManifestFault(
                f"{MANIFEST} has format {content['format']}, this version of disttrain reads format {_FORMAT}"
            )
        files = {name: FileRecord(**record) for name, record in content["files"].items()}
        step = content["step"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _ManifestFault(f"{MANIFEST} is damaged") from None
    if step_of(path) not in (None, step):
        raise _ManifestFault(f"{MANIFEST} is that of step {step}")
    return files


def load_checkpoint(path: Path, verified: bool = False) -> Snapshot:
    """A checkpoint that `find_checkpoint` or the user named, whichever world size has written it.

    With `verified` it is taken for whole: where one rank has verified it, the others need not. Raises ConfigError where
    there is none, IntegrityError where it is not what was written.
    """
    if not path.is_dir():
        raise ConfigError(f"--resume {path}: there is no such checkpoint folder.")
    if not (path / MANIFEST).is_file() or not (path / VALUES).is_file():
        if (path / "checkpoints").is_dir():
            raise ConfigError(
                f"--resume {path} is a run directory: give one of its checkpoints, e.g. {path / 'checkpoints/latest'}, "
                "or go on with the run itself by --run-dir and --resume auto."
            )
        if (path / "model.json").is_file():
            raise ConfigError(
                f"--resume {path} is a trained model, without the optimizer's state: give a checkpoint, a folder in "
                "`checkpoints` of its run."
            )
    if fault := None if verified else find_fault(path):
        raise IntegrityError(f"checkpoint {path} is refused: {fault}. Use an earlier one.")
    try:
        tensors: dict[str, torch.Tensor] = {}
        for name in sorted(_read_manifest(path)):
            if name.endswith(_SUFFIX):
                tensors |= load_file(path / name)
        return Snapshot(tensors, read_values(path))
    except (OSError, SafetensorError, ValueError, _ManifestFault) as error:
        raise IntegrityError(f"checkpoint {path} cannot be read: {error}. Use an earlier one.") from None


def read_values(path: Path) -> CheckpointValues:
    """The plain values of a checkpoint. Raises OSError or ValueError."""
    return CheckpointValues.from_json((path / VALUES).read_text(encoding="utf-8"))
