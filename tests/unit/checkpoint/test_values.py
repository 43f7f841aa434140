from __future__ import annotations

import json

import pytest

from disttrain.checkpoint import CheckpointValues, Score

SCALER = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 22}
# As versions without a schema number wrote it, at the end of an epoch.
BEFORE_SCHEMAS = json.dumps(
    {
        "step": 22,
        "scaler": SCALER,
        "nonfinite": 1,
        "unlogged": [0.5, 3.0, 4.0],
        "validation": {"loss": 0.25, "accuracy": 0.75},
        "best": {"loss": 0.125, "accuracy": None},
        "evaluation_due": True,
    }
)
FULL = CheckpointValues(22, SCALER, 1, (0.5, 3.0, 4.0), Score(0.25, 0.75), Score(0.125), evaluation_due=True)


def test_what_is_written_is_read_back() -> None:
    assert CheckpointValues.from_json(FULL.to_json()) == FULL
    assert CheckpointValues.from_json(CheckpointValues(3).to_json()) == CheckpointValues(3)
    assert json.loads(FULL.to_json())["schema"] == 1


def test_values_of_before_schema_numbers_load() -> None:
    assert CheckpointValues.from_json(BEFORE_SCHEMAS) == FULL
    assert CheckpointValues.from_json('{"step": 7}') == CheckpointValues(7)


def test_a_later_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="its schema is 2, this version of disttrain reads up to 1"):
        CheckpointValues.from_json('{"schema": 2, "step": 7}')


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"step": "7"}', '{"step": 7, "unlogged": [1.0]}', '{"step": 7, "best": {"los": 1.0}}'],
)
def test_values_that_are_none_of_a_checkpoint_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        CheckpointValues.from_json(text)
