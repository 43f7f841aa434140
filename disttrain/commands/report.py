"""`disttrain report`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disttrain.commands.output import check_output_file
from disttrain.errors import ConfigError, DisttrainError, say
from disttrain.files import strict_json, user_path, write_atomically
from disttrain.report.build import as_json, drawn_charts, predictions_of, render_page
from disttrain.report.curves import Drawn
from disttrain.report.read import Run, load_runs
from disttrain.run_dir import MODEL
from disttrain.tune.saved import is_search, load_saved_search

if TYPE_CHECKING:
    from disttrain.report.predictions import Predictions

REPORT = "report.html"
_MOST_SAMPLES, _MOST_MISTAKES = 20_000, 24


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain report`; returns the exit code."""
    output = None if arguments.output is None else str(user_path(arguments.output))
    check_output_file("--output", output, (".html", ".htm"), "a report is", arguments.inputs)
    searches = [one for one in map(user_path, arguments.inputs) if is_search(one)]
    if searches:
        if len(arguments.inputs) > 1:
            raise ConfigError(
                f"{searches[0]} is the folder of a search, which has a report of its own. Name it alone, or name runs: "
                "those of a search are in its trials/."
            )
        search = load_saved_search(searches[0])
        path = Path(output) if output else search.folder / REPORT
        _write(arguments, path, search.render_page(), search.drawn_charts(), search.as_json())
        return 0
    runs = load_runs(arguments.inputs)
    path = Path(output) if output else (runs[0].folder if len(runs) == 1 else Path()) / REPORT
    found = {} if arguments.no_predictions else predictions_of(runs, _predict(arguments))
    _write(arguments, path, render_page(runs, found), drawn_charts(runs, found), as_json(runs, found))
    return 0


def _write(
    arguments: argparse.Namespace, path: Path, page: str, drawn: Sequence[Drawn], values: Mapping[str, Any]
) -> None:
    try:
        write_atomically(path, page)
        if arguments.png is not None:
            from disttrain.report.png import write_png_files

            write_png_files(user_path(arguments.png), drawn)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path} cannot be written: {error.strerror}. Name another place with --output or --png."
        ) from None
    if arguments.json:
        sys.stdout.write(strict_json({"report": str(path), **values}) + "\n")
    else:
        sys.stdout.write(f"{path}\n")


def _predict(arguments: argparse.Namespace) -> Callable[[Run], Predictions | str]:
    def predict(run: Run) -> Predictions | str:
        if not (run.folder / MODEL).is_dir():
            return f"{run.folder} holds no {MODEL}/."
        from disttrain.report.predictions import predict_test_split

        if not arguments.quiet:
            say(f"{run.name}: its model looks at the test split")
        try:
            return predict_test_split(run.folder, _MOST_SAMPLES, _MOST_MISTAKES, arguments.allow_code)
        except DisttrainError as error:
            return str(error)

    return predict
