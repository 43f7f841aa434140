from __future__ import annotations

import json
import math

import pytest

from disttrain.checkpoint import CheckpointValues, Score
from disttrain.telemetry.exact_sum import encode
from disttrain.telemetry.tally import Totals

SCALER = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 22}
# As versions without a schema number wrote it, at the end of an epoch: with three floats as `unlogged`.
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
UNLOGGED = (*encode([0.5]), 3, 0, 4)
FULL = CheckpointValues(22, SCALER, 1, UNLOGGED, Score(0.25, 0.75), Score(0.125), evaluation_due=True)


def test_what_is_written_is_read_back() -> None:
    assert CheckpointValues.from_json(FULL.to_json()) == FULL
    assert CheckpointValues.from_json(CheckpointValues(3).to_json()) == CheckpointValues(3)
    assert json.loads(FULL.to_json())["schema"] == 2


def test_values_of_before_schema_numbers_load() -> None:
    assert CheckpointValues.from_json(BEFORE_SCHEMAS) == FULL
    assert CheckpointValues.from_json('{"step": 7}') == CheckpointValues(7)


def test_a_later_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="its schema is 3, this version of disttrain reads up to 2"):
        CheckpointValues.from_json('{"schema": 3, "step": 7}')


def test_sums_that_were_not_finite_stay_so() -> None:
    before = CheckpointValues.from_json('{"schema": 1, "step": 7, "unlogged": [null, null, 6.0]}')
    loss_sum, correct, samples = Totals.of(before.unlogged)
    assert (math.isnan(loss_sum), correct, samples) == (True, None, 6)
    assert CheckpointValues.from_json(before.to_json()) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"step": "7"}',
        '{"step": 7, "unlogged": [1.0]}',
        '{"step": 7, "unlogged": 3}',
        '{"step": 7, "best": {"los": 1.0}}',
    ],
)
def test_values_that_are_none_of_a_checkpoint_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        CheckpointValues.from_json(text)
