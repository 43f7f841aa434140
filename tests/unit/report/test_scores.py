"""Precision, recall, calibration and mistakes, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from disttrain.report.scores import calibration, precision_recall, surest_mistakes


def test_precision_and_recall_are_those_of_counting_at_every_threshold() -> None:
    generator = np.random.default_rng(0)
    scores, is_class = generator.integers(0, 9, 60) / 10, generator.random(60) < 0.4  # with many equal scores
    found = precision_recall(scores, is_class)
    assert found is not None
    thresholds = sorted(set(scores), reverse=True)
    chosen = [scores >= one for one in thresholds]
    assert found.recall.tolist() == pytest.approx([is_class[one].sum() / is_class.sum() for one in chosen])
    assert found.precision.tolist() == pytest.approx([is_class[one].mean() for one in chosen])
    steps = np.diff(found.recall, prepend=0.0)
    assert found.average == pytest.approx(sum(p * step for p, step in zip(found.precision, steps, strict=True)))


def test_a_perfect_order_has_an_average_precision_of_one() -> None:
    found = precision_recall(np.array([0.9, 0.8, 0.1]), np.array([True, True, False]))
    assert found is not None
    assert found.average == 1.0


def test_a_class_without_samples_has_no_curve() -> None:
    assert precision_recall(np.array([0.5, 0.2]), np.array([False, False])) is None


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    truth = np.array([0] * 8 + [1] * 2 + [1] * 6 + [0] * 4)  # 80 % right where sure to 90 %, 60 % where to 60 %
    found = calibration(probabilities, truth)
    assert found.samples.tolist() == [10, 10]
    assert found.accuracy.tolist() == pytest.approx([0.6, 0.8])
    assert found.error == pytest.approx(0.05)


def test_a_probability_of_one_has_a_bin() -> None:
    assert calibration(np.array([[1.0, 0.0]]), np.array([0])).confidence.tolist() == [1.0]


def test_the_surest_mistakes_come_first_and_right_answers_never() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    assert surest_mistakes(probabilities, np.array([1, 0, 0, 0]), 2).tolist() == [0, 1]
