"""A search as its folder tells of it, without its driver and without Ray: for `disttrain report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from disttrain.config import build_config
from disttrain.errors import ConfigError
from disttrain.report.curves import Drawn
from disttrain.tune.history import ENDED, FINISHED, History, history_of
from disttrain.tune.importance import importances
from disttrain.tune.journal import JOURNAL, read_journal
from disttrain.tune.report import drawn_charts, render_report
from disttrain.tune.search_file import SearchFile, build_search
from disttrain.tune.space import Space, parse_space


class SavedSearch(NamedTuple):
    """What the journal of a search says, whether the search still runs or not."""

    folder: Path
    history: History
    settings: SearchFile
    space: Space
    epochs: int
    """Of a trial that is not stopped early."""

    def render_page(self) -> str:
        """The search's `report.html` of this moment."""
        title = f"Search in {self.folder.resolve().name}"
        return render_report(self.history, self.settings, self.space, self.epochs, title)

    def drawn_charts(self) -> list[Drawn]:
        """Every chart of the page."""
        return drawn_charts(self.history, self.settings, self.space, self.epochs)

    def as_json(self) -> dict[str, Any]:
        """One object: `search`, with what the page shows in figures."""
        history, best = self.history, self.history.best
        trials = [
            {
                "trial": one.number, "state": one.state, "epoch": one.epoch, "value": one.value, "values": one.values,
                "exit_code": one.exit_code, "reason": one.reason or None,
            }
            for one in history.trials.values()
        ]  # fmt: skip
        shown = [one for one in history.trials.values() if one.reports]
        found = {
            "folder": str(self.folder),
            "metric": self.settings.metric,
            "mode": "max" if history.maximize else "min",
            "ended": sum(history.count(state) for state in ENDED),
            "finished": history.count(FINISHED),
            "epochs": history.epochs_spent,
            "best": None if best is None else best.number,
            "value": None if best is None else best.value,
            "values": None if best is None else best.values,
            "importance": importances(self.space.domains, shown),
            "trials": trials,
        }
        return {"search": found}


def is_search(folder: Path) -> bool:
    """Whether a search has been in the folder."""
    return (folder / JOURNAL).is_file()


def load_saved_search(folder: Path) -> SavedSearch:
    """Raises ConfigError where the journal tells of no search yet, IntegrityError where it is damaged."""
    history = history_of(read_journal(folder / JOURNAL))
    if not history.starts:
        raise ConfigError(f"{folder / JOURNAL} tells of no search yet. Look again once its first trial has begun.")
    start = history.starts[-1]
    settings = build_search(start["search"], f"the search in {folder / JOURNAL}")
    config = build_config(start["base"])
    return SavedSearch(folder, history, settings, parse_space(settings.space, config), config.train.epochs)
