"""The plain values of a checkpoint: what `values.json` holds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from disttrain.files import strict_json
from disttrain.telemetry.tally import NOTHING, Sums, sums_from_json

SCHEMA = 2
"""Counts up when a reader of before would misunderstand what is written. Files of before it was written have none."""


@dataclass(frozen=True)
class Score:
    """Figures of an evaluation."""

    loss: float | None
    """None where it was not finite."""
    accuracy: float | None = None
    """None where the outputs are no classes."""

    def figure(self, name: str) -> float | None:
        """`loss` or `accuracy`."""
        return self.loss if name == "loss" else self.accuracy


@dataclass(frozen=True)
class CheckpointValues:
    """All of a training's state that is no tensor."""

    step: int
    """Optimizer steps done; with the length of the data it says where in which epoch."""
    scaler: dict[str, Any] | None = None
    """`state_dict()` of the fp16 gradient scaler."""
    nonfinite: int = 0
    """Steps whose loss or gradient was not finite, and that were skipped or rolled back."""
    unlogged: Sums = NOTHING
    """For the next line of `metrics.jsonl`: the sums over all ranks so far."""
    validation: Score | None = None
    """Figures of an evaluation after this very step."""
    best: Score | None = None
    """The best evaluation of the run so far."""
    evaluation_due: bool = False
    """An evaluation after this step has been cut short by a request to stop."""

    def to_json(self) -> str:
        """The content of `values.json`."""
        return strict_json({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> CheckpointValues:
        """Read what this or an earlier version wrote. Raises ValueError, also for the schema of a later version."""
        content: dict[str, Any] = json.loads(text)
        try:
            schema = content.pop("schema", 0)
            if schema > SCHEMA:
                raise ValueError(f"its schema is {schema}, this version of disttrain reads up to {SCHEMA}")
            known = {one.name: content[one.name] for one in fields(cls) if one.name in content}
            for name in ("validation", "best"):
                if known.get(name) is not None:
                    known[name] = Score(**known[name])
            if "unlogged" in known:
                known["unlogged"] = sums_from_json(known["unlogged"])
            if type(known["step"]) is not int:
                raise ValueError("its step is no number")
            return cls(**known)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"its content is not that of a checkpoint ({error})") from None
