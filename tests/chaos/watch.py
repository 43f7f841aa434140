"""A run seen from outside: its files, and what is new in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mark:
    """How far the files of a run had come at some moment."""

    starts: int
    inode: int
    size: int


class RunFiles:
    """The files in a run directory that tell how far it has come."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.checkpoints = run_dir, run_dir / "checkpoints"
        self._metrics = run_dir / "metrics.jsonl"

    def mark(self) -> Mark:
        """How far they are now."""
        inode, size = self._metrics_state()
        return Mark(len(self.first_steps()), inode, size)

    def _metrics_state(self) -> tuple[int, int]:
        try:
            state = self._metrics.stat()
        except OSError:
            return 0, 0
        return state.st_ino, state.st_size

    def first_steps(self) -> list[int]:
        """The step at which each start of the run began."""
        starts: list[dict[str, Any]] = _json(self.run_dir / "manifest.json").get("starts", [])
        return [one["first_step"] for one in starts]

    def line_since(self, mark: Mark, restarted: bool) -> dict[str, Any] | None:
        """The newest line of training written since; with `restarted`, by a start put on record since."""
        if self._metrics_state() in ((0, 0), (mark.inode, mark.size)):
            return None
        first_steps = self.first_steps()
        if restarted and len(first_steps) <= mark.starts:
            return None
        train = [one for one in self.lines() if one["split"] == "train"]
        return train[-1] if train and train[-1]["step"] > (first_steps or [0])[-1] else None

    def lines(self) -> list[dict[str, Any]]:
        """All complete lines of `metrics.jsonl`. One that is cut short is left out: a kill may do that."""
        try:
            text = self._metrics.read_text(encoding="utf-8")
        except OSError:
            return []
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines

    def result(self) -> dict[str, Any] | None:
        """`result.json` of a finished run."""
        result = _json(self.run_dir / "result.json")
        return result if result.get("status") == "finished" else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value
