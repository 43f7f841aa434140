"""Damage to checkpoints while nothing runs: what a broken disk, a full one or a careless hand leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import checkpoints
from .scenario import Damage


def apply(damage: Damage, folder: Path) -> str:
    """Do it to the checkpoints below `folder`. Returns what was done, in words."""
    latest = folder / "latest"
    found = checkpoints.folders(folder)
    if not found:
        return f"{damage.kind}: no checkpoint yet"
    # The fraction picks a checkpoint, what is left of it a file, and what is left of that a byte. New ones come first:
    # damage to one that is not read shows nothing.
    chosen, rest = _pick(found[::-1], damage.place**2)
    if damage.kind == "delete_latest":
        latest.unlink(missing_ok=True)
    elif damage.kind == "scribble_latest":
        for pointer in (latest, folder / "best"):
            if pointer.exists():
                pointer.write_bytes((b"", b"step_99999999\n", b"\xff\0\xfe", b"../../etc\n")[int(rest * 4)])
    elif damage.kind == "half_written":
        beside = folder / f".{chosen.name}.{int(rest * 2**32):08x}"
        shutil.copytree(chosen, beside)
        (beside / "manifest.json").unlink(missing_ok=True)
    elif damage.kind == "delete_checkpoint":
        shutil.rmtree(chosen)
    elif damage.kind == "damage_all":
        return ", ".join(_damage_file("flip" if rest < 0.5 else "truncate", one, rest) for one in found)
    else:
        return _damage_file(damage.kind, chosen, rest)
    return f"{damage.kind} {chosen.name}" if "latest" not in damage.kind else damage.kind


def _damage_file(kind: str, checkpoint: Path, place: float) -> str:
    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    if not files:
        return f"{kind}: {checkpoint.name} is empty"
    path, rest = _pick(files, place)
    content = bytearray(path.read_bytes())
    if kind == "delete_file":
        path.unlink()
    elif kind == "truncate":
        path.write_bytes(content[: int(rest * len(content))])
    elif content:
        content[int(rest * len(content))] ^= 1 << int(rest * 8e6) % 8
        path.write_bytes(content)
    return f"{kind} {checkpoint.name}/{path.name}"


def _pick(paths: list[Path], place: float) -> tuple[Path, float]:
    """One of them by a number in [0, 1), and the part of the number that is left, in [0, 1) again."""
    scaled = place * len(paths)
    return paths[int(scaled)], scaled % 1.0
