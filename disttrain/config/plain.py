"""The kinds of values that a config can hold: those that YAML and JSON write down and read back alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from disttrain.errors import ConfigError

_DEEPEST = 50


def plain_values(value: Any, depth: int = 0) -> Any:
    """A copy with numpy's scalars as plain numbers, paths as text, tuples as lists. What else there is stays."""
    if depth > _DEEPEST:
        raise ConfigError(f"the config is nested deeper than {_DEEPEST} levels, or holds itself.")
    if isinstance(value, Mapping):
        return {key: plain_values(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(one, depth + 1) for one in value]
    if isinstance(value, PurePath):
        return str(value)
    # Without an import: a config is read before numpy is needed.
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value


def check_plain(value: Any, place: str) -> None:
    """Raise ConfigError for a value that `config.yaml` and `model.json` cannot hold."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{place} has the key {key!r}, a {type(key).__name__}: keys must be text. Quote it.")
            check_plain(one, f"{place}.{key}")
        return
    if isinstance(value, list):
        for at, one in enumerate(value):
            check_plain(one, f"{place}[{at}]")
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{place}={value!r} is not text that UTF-8 can write. Use other characters.") from None
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place}={value!r}: JSON has no word for it. Use a finite number, or text.")
    if value is not None and not isinstance(value, bool | int | float):
        kind = type(value).__name__
        way_out = f"quote it to give text: {place}='\"{value}\"'" if kind in _DATES else "make it in your own code"
        raise ConfigError(
            f"{place}={value!r} is a {kind}: config.yaml and model.json hold text, finite numbers, true, false, null, "
            f"lists and mappings. Give one of these, or {way_out}."
        )


_DATES = ("date", "datetime", "time")  # YAML makes them of 2024-01-01
