"""Where results go: standard output, or a file that is there only once it is complete."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from disttrain.errors import ConfigError, DataError
from disttrain.files import replacing


def check_not_input(option: str, output: str | None, inputs: Sequence[str]) -> None:
    """Raise ConfigError for a file to write that is one of the `inputs`."""
    if output is None or not Path(output).exists():
        return
    if any(Path(one).exists() and Path(output).samefile(one) for one in inputs):
        raise ConfigError(f"{option} {output} is an input, which would be overwritten: name another file to write.")


@contextlib.contextmanager
def open_output(output: str | None) -> Iterator[TextIO]:
    """Standard output for None. Raises DataError where the file cannot be written."""
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names are bytes that need not be text: they go out as they are
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield sys.stdout
        return
    try:
        with replacing(Path(output)) as file:
            yield file
    except OSError as error:
        raise DataError(f"--output {output} cannot be written: {error.strerror}.") from None
