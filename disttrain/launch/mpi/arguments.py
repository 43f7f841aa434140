"""`[launcher's options] CONFIG [options of disttrain train]`, for launchers that have options by the hundred."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from disttrain.errors import ConfigError


class Arguments(NamedTuple):
    """The launcher's own words, and those from CONFIG on."""

    options: list[str]
    train: list[str]

    def value(self, *names: str) -> str | None:
        """The value of the first of the launcher's options with one of these names, as `-np 2` or `--np=2`."""
        for index, word in enumerate(self.options):
            name, equals, value = word.partition("=")
            if name in names:
                return value if equals else next(iter(self.options[index + 1 :]), None)
        return None


def split(argv: Sequence[str], launcher: str) -> Arguments:
    """Cut `argv` at CONFIG: the word after `--`, else the first one that ends like a YAML file.

    Raises ConfigError where there is none.
    """
    words = list(argv)
    if "--" in words:
        at = words.index("--")
        found = Arguments(words[:at], words[at + 1 :])
    else:
        at = next((index for index, word in enumerate(words) if word.endswith((".yaml", ".yml"))), len(words))
        found = Arguments(words[:at], words[at:])
    if not found.train:
        raise ConfigError(
            f"no config file among the arguments of {launcher}: it takes [its options] CONFIG [options of disttrain "
            "train], and CONFIG ends in .yaml or follows --."
        )
    return found


def check_count(text: str | None, launcher: str) -> int:
    """The number of ranks that the launcher is asked for."""
    if text is None:
        raise ConfigError(f"{launcher} is not told how many ranks to start. Add -np <ranks>.")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigError(f"-np {text}: the number of ranks is at least 1.")
    return int(text)


def threads_per_rank(cores: int, ranks: int) -> str:
    """OMP_NUM_THREADS for `ranks` ranks on a node with `cores`, where the user has not said otherwise."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // max(1, ranks)))
