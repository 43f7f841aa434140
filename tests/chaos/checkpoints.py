"""The checkpoints of a run as the contract has them, read by code of our own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def folders(checkpoints: Path) -> list[Path]:
    """All finished checkpoint folders, whole or not, oldest first."""
    return sorted(checkpoints.glob("step_*")) if checkpoints.is_dir() else []


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None where it is whole: the manifest has the sha256 that it says, and so has
    every file in it; tensors and values are among them; and the step is the one that the folder names."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        own, files = manifest.pop("manifest_sha256"), manifest["files"]
        if own != hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest():
            return "the manifest has another sha256"
        if manifest["step"] != step_of(folder):
            return f"the manifest is of step {manifest['step']}"
        if "values.json" not in files or not any(name.endswith(".safetensors") for name in files):
            return f"the manifest names only {sorted(files)}"
        for name, record in files.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != record["sha256"]:
                return f"{name} has another sha256"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step_"))


def newest_whole_step(checkpoints: Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none: what a run goes on from."""
    return max((step_of(folder) for folder in folders(checkpoints) if fault(folder) is None), default=0)


def latest_fault(checkpoints: Path) -> str | None:
    """What is wrong with `latest`: it names a whole checkpoint, or is not there yet beside the very first one."""
    latest = checkpoints / "latest"
    if not latest.exists():
        return None if len(folders(checkpoints)) <= 1 else "there is no `latest` beside several checkpoints"
    name = latest.read_text(encoding="utf-8").strip()
    reason = fault(checkpoints / name) if name.startswith("step_") else "no checkpoint's name"
    return f"`latest` names {name!r}: {reason}" if reason else None


def half_written(checkpoints: Path) -> list[Path]:
    """Checkpoints being written, or left so by a kill."""
    return list(checkpoints.glob(".step_*")) if checkpoints.is_dir() else []
