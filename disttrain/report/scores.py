"""What class probabilities are worth: precision and recall, calibration, the surest mistakes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_BINS = 15


class PrecisionRecall(NamedTuple):
    """One class against all others, from the highest threshold to the lowest."""

    recall: np.ndarray
    precision: np.ndarray
    average: float
    """Average precision: the sum over thresholds of precision times the step in recall."""


class Calibration(NamedTuple):
    """Samples in bins of equal width of their highest probability; bins without samples are left out."""

    confidence: np.ndarray
    """Mean of the highest probability in each bin."""
    accuracy: np.ndarray
    """Share of samples in each bin whose most probable class is the true one."""
    samples: np.ndarray
    error: float
    """Expected calibration error: the mean over the samples of |confidence - accuracy| of their bin."""


def precision_recall(scores: np.ndarray, is_class: np.ndarray) -> PrecisionRecall | None:
    """Of scores [n] and whether each sample is of the class [n]; None where none is. Equal scores share a threshold."""
    positives = int(is_class.sum())
    if positives == 0:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(is_class[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    recall, precision = hits[ends] / positives, hits[ends] / (ends + 1)
    average = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    return PrecisionRecall(recall, precision, average)


def calibration(probabilities: np.ndarray, truth: np.ndarray) -> Calibration:
    """Of probabilities [n, classes] and true classes [n]."""
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    at = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    count = np.bincount(at, minlength=_BINS)
    kept = np.flatnonzero(count)
    sums = np.bincount(at, confidence, _BINS)[kept], np.bincount(at, right, _BINS)[kept]
    means, shares = sums[0] / count[kept], sums[1] / count[kept]
    error = float(np.sum(np.abs(means - shares) * count[kept]) / max(1, len(truth)))
    return Calibration(means, shares, count[kept], error)


def surest_mistakes(probabilities: np.ndarray, truth: np.ndarray, most: int) -> np.ndarray:
    """Rows of the wrong answers, those with the highest probability first, at most so many."""
    wrong = np.flatnonzero(probabilities.argmax(1) != truth)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:most]
