"""What is wrong with the name of a file to write, before any work is done for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from disttrain.errors import ConfigError
from disttrain.inference.output_file import check_not_input


def check_output_file(
    option: str, output: str | None, suffixes: Sequence[str], what: str, inputs: Sequence[str], as_json: bool = False
) -> None:
    """Raise ConfigError for a file of unknown form, in a folder that is not there, or that is one of the `inputs`;
    `what` is written to it, unless it is to be printed (`as_json`)."""
    if output is None:
        return
    if as_json:
        raise ConfigError(f"--json prints on standard output, and {option} {output} is a file: leave one of them out.")
    path = Path(output)
    if path.suffix.lower() not in suffixes:
        *first, last = suffixes
        raise ConfigError(f"{option} {output}: {what} written as {', '.join(first)} or {last}.")
    if path.is_dir():
        raise ConfigError(f"{option} {output} is a folder: name the file to write.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{option} {output}: the folder {path.absolute().parent} does not exist.")
    check_not_input(option, output, inputs)
