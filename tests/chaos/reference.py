"""Undisturbed runs, one for each config and world size of a session: what the disturbed ones must come to."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .places import site
from .program import ChaosFailure, Program
from .scenario import TIMEOUT_S, Scenario
from .watch import RunFiles

_RUN_S = 120.0
_MEASURED = ("loss", "accuracy", "lr", "grad_norm", "epoch")
Line = tuple[Any, ...]


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run came to."""

    weights_sha256: str
    lines: dict[tuple[str, int], Line]


def comparable(lines: list[dict[str, Any]]) -> list[tuple[tuple[str, int], Line]]:
    """Lines of `metrics.jsonl` as split and step, and those values that have nothing to do with time."""
    return [
        ((one["split"], one["step"]), tuple(one.get(name) for name in _MEASURED))
        for one in lines
        if one["split"] != "telemetry"
    ]


class References:
    """Trains each config once, whoever asks first."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._locks: dict[tuple[str, int], threading.Lock] = {}
        self._known: dict[tuple[str, int], Reference] = {}

    def of(self, scenario: Scenario) -> Reference:
        """The undisturbed run of this scenario's config on as many workers."""
        key = (scenario.recipe, scenario.workers)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._known:
                self._known[key] = self._train(scenario)
            return self._known[key]

    def _train(self, scenario: Scenario) -> Reference:
        folder = self._folder / f"undisturbed_{scenario.recipe}_{scenario.workers}"
        with site("local", folder) as place:
            program = Program(
                place.commands(scenario.workers, [*scenario.overrides(), f"comm.timeout_s={TIMEOUT_S}"]),
                folder,
                "whole",
                place.variables(),
            )
            try:
                codes = program.wait_for_end(_RUN_S)
            finally:
                program.kill()
            files = RunFiles(place.run_dir)
            result = files.result()
            if codes != [0] or result is None:
                raise ChaosFailure(f"the undisturbed run ended with {codes}:\n{program.output()[-4000:]}")
            return Reference(result["weights_sha256"], dict(comparable(files.lines())))
