"""What the files of a run say, as plain values. A file that is not there, or is cut short, leaves its part out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from disttrain.errors import ConfigError
from disttrain.files import user_path
from disttrain.run_dir import CONFIG, MANIFEST, METRICS, NONFINITE, RESULT, STATUS

Series = list[tuple[float, float]]
"""(step, value), in the order of the steps."""


@dataclass(frozen=True)
class Run:
    """One run directory."""

    folder: Path
    name: str
    """Short, and another one for each run of a report."""
    config: dict[str, Any]
    manifest: dict[str, Any]
    lines: list[dict[str, Any]]
    """Of `metrics.jsonl`."""
    nonfinite: list[dict[str, Any]]
    result: dict[str, Any]
    """Empty until the run has finished."""
    status: dict[str, Any]

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What the manifest says of each start, the first one first."""
        starts = self.manifest.get("starts")
        return starts if isinstance(starts, list) else []

    @property
    def test(self) -> dict[str, Any]:
        """The figures of the test split; empty where there are none."""
        return self.result.get("test") or {}

    @property
    def last_step(self) -> int:
        """The step that the files know of last."""
        return max([0, *(line["step"] for line in self.lines)])

    def series(self, split: str, key: str) -> Series:
        """The finite values of one key; `step_ms/data` is that of `data` within `step_ms`."""
        return [
            (float(line["step"]), float(value))
            for line in self.lines
            if line.get("split") == split and isinstance(value := _within(line, key), int | float)
        ]


def _within(line: dict[str, Any], key: str) -> Any:
    found: Any = line
    for part in key.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def load_runs(folders: list[str]) -> list[Run]:
    """The runs, each with a name of its own. Raises ConfigError for a folder that is no run directory."""
    paths = [user_path(one) for one in folders]
    return [_load(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: list[Path]) -> list[str]:
    """As much of the end of each path as tells it from the others."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = [os.path.join(*one[-count:]) for one in parts]  # noqa: PTH118
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"the same run directory is named twice: {', '.join(map(str, paths))}. Name each once.")


def _load(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Give the run directory of a training (--run-dir of the command).")
    if not (folder / METRICS).is_file() and not (folder / MANIFEST).is_file():
        raise ConfigError(
            f"{folder} is no run directory: it has neither {METRICS} nor {MANIFEST}. Give the run directory of a "
            "training (--run-dir of the command), or the folder of a search (--output of disttrain tune)."
        )
    return Run(
        folder=folder,
        name=name,
        config=_yaml(folder / CONFIG),
        manifest=_json(folder / MANIFEST),
        lines=[line for line in _json_lines(folder / METRICS) if isinstance(line.get("step"), int)],
        nonfinite=list(_json_lines(folder / NONFINITE)),
        result=_json(folder / RESULT),
        status=_json(folder / STATUS),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # the last line of a run that is killed, or still writes
            continue
        if isinstance(found, dict):
            yield found


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
