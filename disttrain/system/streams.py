"""Standard streams that are closed, or break while a command runs, cost their lines and nothing else.

Without this a daemon's closed standard output ends a training with an AttributeError, and one on standard error that
cannot take a line (its reader has gone, its disk is full) ends it with an OSError.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import TextIO

from disttrain.errors import DisttrainError

_PATIENCE_S = 5.0  # for the reader of a stream that would rather not wait (O_NONBLOCK)


class _Stream(io.FileIO):
    """The file descriptor of a standard stream. What it does not take is dropped; `lost` says why."""

    lost: OSError | None = None

    def write(self, data: object) -> int:
        rest = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if written is None and not select.select([], [self], [], _PATIENCE_S)[1]:
                    raise BlockingIOError(errno.EAGAIN, f"its reader has not read for {_PATIENCE_S:g} s")
                rest = rest[written or 0 :]
        except (OSError, ValueError) as error:
            if not isinstance(error, BrokenPipeError):  # as in `| head`: nobody wants the rest
                self.lost = error if isinstance(error, OSError) else None
        return size


def fill_closed_streams() -> None:
    """Open the null device in the place of standard streams that are closed.

    Their file descriptors would else be given to the next files that are opened, and receive what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def secure_streams() -> None:
    """`fill_closed_streams`, and let writing to standard output and error never raise, whatever happens to them."""
    fill_closed_streams()
    sys.stdout = _tolerant(sys.stdout, 1, line_buffering=sys.stdout.isatty())
    sys.stderr = _tolerant(sys.stderr, 2, line_buffering=True)


def _tolerant(stream: TextIO, number: int, line_buffering: bool) -> TextIO:
    with contextlib.suppress(OSError):
        stream.flush()
    is_utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
    errors = "surrogateescape" if is_utf8 and number == 1 else "backslashreplace"  # file names may be any bytes
    raw = _Stream(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, errors, line_buffering=line_buffering)


def check_results_written() -> None:
    """Raise DisttrainError where standard output did not take all that was written to it, though it has a reader."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Stream) and raw.lost is not None:
        raise DisttrainError(
            f"the results could not be written to standard output: {raw.lost.strerror}. Send them to a place that has "
            "room, and run the same command again."
        )
