"""The values that a search may give to one field of the config."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from disttrain.errors import ConfigError, unknown_name

_RANGES = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2}
_LISTS = ("choice", "grid")
KINDS = (*_RANGES, *_LISTS)

_DIGITS = 6  # of a number that is drawn: as many as a person wants to read in a config


@dataclass(frozen=True)
class Domain:
    """`kind` is `uniform`, `loguniform`, `quniform` (in steps), `randint` (with both ends), `choice` or `grid`."""

    kind: str
    values: tuple[Any, ...]
    """The ends of a range, for `quniform` its step too; or all values."""
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Fields of the same space, each with the values for which this one is drawn; otherwise the config's own stands."""

    @property
    def is_list(self) -> bool:
        """Whether it has a value for each of its elements, not a range."""
        return self.kind in _LISTS

    def extremes(self) -> tuple[Any, ...]:
        """What the config has to take: both ends of a range, all values of a list."""
        return self.values if self.is_list else self.values[:2]

    def sample(self, draw: random.Random) -> Any:
        """One value; of a list, each is equally likely."""
        if self.is_list:
            return self.values[draw.randrange(len(self.values))]
        low, high = self.values[:2]
        if self.kind == "randint":
            return draw.randint(low, high)
        if self.kind == "quniform":
            return self.on_step(draw.randint(0, self.step_count))
        if self.kind == "loguniform":
            return self.rounded(math.exp(draw.uniform(math.log(low), math.log(high))))
        return self.rounded(draw.uniform(low, high))

    def rounded(self, value: float) -> float:
        """The value with as many digits as a config is to have, within the range."""
        low, high = self.values[:2]
        return min(max(float(f"{value:.{_DIGITS}g}"), float(low)), float(high))

    @property
    def step_count(self) -> int:
        """Of a `quniform`: steps between its lower end and the last value that is not above the upper one."""
        low, high, step = self.values
        return math.floor((high - low) / step * (1 + 1e-9))

    def on_step(self, number: int) -> Any:
        """Of a `quniform`: the value that many steps above the lower end, whole where all three numbers are."""
        low, _, step = self.values
        value = low + number * step
        return value if isinstance(value, int) else self.rounded(value)

    def perturbed(self, value: Any, draw: random.Random) -> Any:
        """A value beside this one: its neighbour in a list, of a range 0.8 or 1.2 times it, and never one outside."""
        if self.is_list:
            at = self.values.index(value) + draw.choice((-1, 1))
            return self.values[min(max(at, 0), len(self.values) - 1)]
        low, high = self.values[:2]
        near = min(max(value * draw.choice((0.8, 1.2)), low), high)
        if self.kind == "randint":
            return round(near)
        if self.kind == "quniform":
            return self.on_step(min(round((near - low) / self.values[2]), self.step_count))
        return self.rounded(near)

    def contains(self, value: Any) -> bool:
        """Whether the value lies within the range or the list."""
        if self.is_list:
            return any(value == one and type(value) is type(one) for one in self.values)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.values[0] <= value <= self.values[1]

    def at(self, position: float) -> float:
        """Of `uniform` and `loguniform`: the value that lies there, as `position` counts."""
        low, high = self.values[:2]
        position = min(max(position, 0.0), 1.0)
        if self.kind == "loguniform":
            return self.rounded(math.exp(math.log(low) + position * (math.log(high) - math.log(low))))
        return self.rounded(low + position * (high - low))

    def position(self, value: Any) -> float | None:
        """Where the value lies between 0 (lower end, first element) and 1; None where it does not lie within."""
        if not self.contains(value):
            return None
        if self.is_list:
            return self.values.index(value) / max(1, len(self.values) - 1)
        low, high = self.values[:2]
        if self.kind == "loguniform":
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.5


def parse_domain(field: str, raw: Any) -> Domain:
    """`{loguniform: [1e-4, 1e-1]}`, perhaps with `when: {other.field: value or [values]}`, as a Domain.

    Raises ConfigError for what is no domain.
    """
    place = f"space {field}"
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{place}={raw!r}: give a kind of range and its values, such as {{choice: [64, 128]}} or "
            f"{{loguniform: [1.0e-4, 1.0e-1]}}. To fix a field, set it in the config."
        )
    kinds = [key for key in raw if key != "when"]
    if len(kinds) != 1:
        raise ConfigError(
            f"{place}={dict(raw)!r}: give one kind of range, and perhaps `when`. Kinds: {', '.join(KINDS)}."
        )
    kind = kinds[0]
    if kind not in KINDS:
        raise ConfigError(f"{place}: {unknown_name('kind of range', str(kind), KINDS)}")
    values = raw[kind]
    if not isinstance(values, list):
        raise ConfigError(f"{place}: {kind}={values!r} must be a list, such as {kind}: [1, 2].")
    _check_values(f"{place}: {kind}={values!r}", kind, values)
    return Domain(kind, tuple(values), _conditions(place, raw.get("when")))


def _check_values(place: str, kind: str, values: list[Any]) -> None:
    if kind in _LISTS:
        if not values:
            raise ConfigError(f"{place} is empty: give at least one value.")
        if any(one in values[:at] for at, one in enumerate(values)):
            raise ConfigError(f"{place} has a value twice. Leave one out.")
        return
    count = _RANGES[kind]
    wants = "[lowest, highest, step]" if count == 3 else "[lowest, highest]"
    if len(values) != count or any(isinstance(one, bool) or not isinstance(one, int | float) for one in values):
        raise ConfigError(f"{place}: give {count} numbers, {wants}.")
    if not all(math.isfinite(one) for one in values):
        raise ConfigError(f"{place}: give finite numbers.")
    if values[0] > values[1]:
        raise ConfigError(f"{place}: the lowest is above the highest. Exchange them.")
    if kind == "loguniform" and values[0] <= 0:
        raise ConfigError(f"{place}: logarithms need numbers above 0. Raise the lowest, or use uniform.")
    if kind == "randint" and not all(isinstance(one, int) for one in values):
        raise ConfigError(f"{place}: give whole numbers, or use uniform.")
    if kind == "quniform" and values[2] <= 0:
        raise ConfigError(f"{place}: the step must be above 0.")


def _conditions(place: str, raw: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if raw is None:
        return ()
    if not isinstance(raw, Mapping) or not raw:
        raise ConfigError(f"{place}: when={raw!r} must be a mapping, such as when: {{optim.name: sgd}}.")
    return tuple((str(field), tuple(one) if isinstance(one, list) else (one,)) for field, one in raw.items())
