"""Which of the searched fields mattered, as far as the trials can tell."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from disttrain.tune.domains import Domain
from disttrain.tune.history import FAILED, Trial

_BINS = 4
_FEWEST = 6  # trials, below which nothing can be said


def importances(domains: dict[str, Domain], trials: Sequence[Trial]) -> dict[str, float] | None:
    """For each field the share of the variance of the trials' last values that it explains on its own, largest first.

    Ranges are cut into quarters of the trials. It is the ratio epsilon squared (Kelley 1935): eta squared without what
    chance alone explains with so few trials, and so about 0 for a field without effect. None for fewer than six trials.
    """
    usable = [one for one in trials if one.value is not None and one.state != FAILED]
    if len(usable) < _FEWEST:
        return None
    found = {}
    for field, domain in domains.items():
        pairs = [(one.values[field], one.value or 0.0) for one in usable if field in one.values]
        found[field] = _explained(_groups(domain, pairs))
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _groups(domain: Domain, pairs: Sequence[tuple[Any, float]]) -> list[list[float]]:
    if domain.is_list:
        by_value: dict[str, list[float]] = defaultdict(list)
        for value, result in pairs:
            by_value[repr(value)].append(result)
        return list(by_value.values())
    results = [result for _, result in sorted(pairs, key=lambda one: one[0])]
    edges = [round(len(results) * at / _BINS) for at in range(_BINS + 1)]
    return [results[low:high] for low, high in itertools.pairwise(edges) if high > low]


def _explained(groups: Sequence[Sequence[float]]) -> float:
    values = [one for group in groups for one in group]
    count, kinds = len(values), len(groups)
    if kinds < 2 or count <= kinds:
        return 0.0
    mean = sum(values) / count
    total = sum((one - mean) ** 2 for one in values)
    within = sum((one - sum(group) / len(group)) ** 2 for group in groups for one in group)
    if total == 0:
        return 0.0
    return max(0.0, 1 - within / (count - kinds) / (total / (count - 1)))
