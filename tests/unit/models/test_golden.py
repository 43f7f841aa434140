"""Golden requests: read as written, and a model that does not answer as they say is told from one that does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from disttrain.errors import DataError, IntegrityError
from disttrain.models.golden import GOLDEN, TOLERANCE, Golden, load_golden

SHAPE = (3, 4, 5)


def golden(count: int = 6, dtype: type = np.uint8) -> Golden:
    draw = np.random.RandomState(0)
    probabilities = draw.dirichlet(np.ones(2), count).astype(np.float32)
    return Golden(draw.randint(0, 256, (count, *SHAPE)).astype(dtype), probabilities)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert load_golden(tmp_path, SHAPE, 2) is None
    golden().save(tmp_path)
    read = load_golden(tmp_path, SHAPE, 2)
    assert read is not None
    assert np.array_equal(read.images, golden().images)
    assert np.array_equal(read.probabilities, golden().probabilities)


def test_answers_within_the_tolerance_pass_and_others_do_not() -> None:
    one = golden()
    assert one.check(one.probabilities) == 0
    moved = one.probabilities.copy()
    moved[3, 1] += 0.9 * TOLERANCE
    assert one.check(moved) == pytest.approx(0.9 * TOLERANCE, rel=1e-3)
    for wrong in (1.1 * TOLERANCE, np.nan):
        moved[3, 1] = one.probabilities[3, 1] + wrong
        with pytest.raises(IntegrityError, match="does not answer its golden requests"):
            one.check(moved)


@pytest.mark.parametrize(
    ("made", "shape", "classes"),
    [
        (golden(), (1, 4, 5), 2),
        (golden(), SHAPE, 3),
        (golden(0), SHAPE, 2),
        (golden(dtype=np.int32), SHAPE, 2),
    ],
)
def test_those_of_another_model_are_refused(made: Golden, shape: tuple[int, ...], classes: int, tmp_path: Path) -> None:
    made.save(tmp_path)
    with pytest.raises(DataError, match="not of a model with inputs"):
        load_golden(tmp_path, shape, classes)


@pytest.mark.parametrize("kept", [0, 30, -5])
def test_a_damaged_file_is_refused(kept: int, tmp_path: Path) -> None:
    golden().save(tmp_path)
    (tmp_path / GOLDEN).write_bytes((tmp_path / GOLDEN).read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read"):
        load_golden(tmp_path, SHAPE, 2)
