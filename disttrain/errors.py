"""What can go wrong, each kind with the exit code that tells a scheduler whether to run the job again.

A message has three parts: the names and values, the rule they break, the way out.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Iterable


class DisttrainError(Exception):
    """Base of every error that disttrain explains to the user."""

    exit_code = 1


class ConfigError(DisttrainError):
    """A usage or config mistake: the same command fails again until it is changed."""

    exit_code = 2


class DataError(DisttrainError):
    """Data is missing, unreadable or not what the config says it is."""

    exit_code = 3


class DivergedError(DisttrainError):
    """Loss or gradients stopped being finite."""

    exit_code = 4


class IntegrityError(DisttrainError):
    """What was read back is not what was written, or ranks disagree."""

    exit_code = 5


class Preempted(DisttrainError):
    """The job was asked to stop. Running it again resumes."""

    exit_code = 143


class PeerLostError(DisttrainError):
    """A peer process or the network was lost. Running it again resumes."""

    exit_code = 144


def unknown_name(what: str, name: str, valid: Iterable[str]) -> str:
    """The message for a name that is not among the valid ones: the nearest first, then all of them."""
    choices = sorted(valid)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}.{hint} Valid: {', '.join(choices)}."


def say_error(message: str) -> None:
    """One error message on standard error."""
    say(f"error: {message}")


def say(text: str) -> None:
    """A line on standard error. Where that is closed or broken, nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"disttrain: {text}\n")
        sys.stderr.flush()


def exit_code_of(command: Callable[[], int]) -> int:
    """What a program ends with: the command's own exit code or, once the user has been told, that of its error."""
    try:
        return command()
    except ENDS as end:
        return exit_code_after(end)


def exit_code_after(end: BaseException) -> int:
    """The exit code for one of `ENDS`, once the user has been told."""
    if isinstance(end, DisttrainError):
        say_error(str(end))
        return end.exit_code
    if isinstance(end, SystemExit):  # of a rank, once one of them has reported
        return end.code if isinstance(end.code, int) else 1
    return 130


ENDS = (DisttrainError, SystemExit, KeyboardInterrupt)
"""What ends a program without a traceback."""
