"""The files that a search leaves for people: `best.yaml`, `trials.csv`, `report.html`."""

from __future__ import annotations

import csv
import io

from disttrain.errors import say
from disttrain.files import write_atomically
from disttrain.tune.history import History
from disttrain.tune.report import REPORT, render_report
from disttrain.tune.search import Search
from disttrain.tune.trial_config import write_best

TABLE = "trials.csv"


def write_outputs(search: Search) -> None:
    """Write all of them anew. A disk that takes them no more costs a warning: they follow from the journal."""
    try:
        write_best(search.output, search.history, search.settings)
        write_atomically(search.output / TABLE, render_csv(search.history, search.settings.metric))
        title = f"Search in {search.output.name}"
        epochs = search.base.train.epochs
        page = render_report(search.history, search.settings, search.space, epochs, title)
        write_atomically(search.output / REPORT, page)
    except OSError as error:
        say(f"warning: {error.filename} cannot be written ({error.strerror})")


def render_csv(history: History, metric: str) -> str:
    """One row a trial: number, state, last epoch and value, best value, its settings, times, and why it failed."""
    fields = list(dict.fromkeys(field for one in history.trials.values() for field in one.values))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "trial",
            "state",
            "epoch",
            metric,
            f"best_{metric}",
            *fields,
            "began",
            "ended",
            "attempts",
            "exit_code",
            "reason",
        ]
    )
    for trial in sorted(history.trials.values(), key=lambda one: one.number):
        seen = [one.value for one in trial.reports]
        best = (max(seen) if history.maximize else min(seen)) if seen else None
        table.writerow(
            [trial.name, trial.state, trial.epoch, trial.value, best, *(trial.values.get(field) for field in fields)]
            + [trial.began, trial.ended, trial.attempt, trial.exit_code, trial.reason]
        )
    return text.getvalue()
