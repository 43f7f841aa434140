"""`report.html`: a search in one file, to be read offline."""

from __future__ import annotations

from html import escape
from typing import Any

from disttrain.report.curves import Drawn
from disttrain.report.page import Tile, charts, note, page, section, table, tiles
from disttrain.report.svg import Line, Range, bars, chart, color_between, parallel
from disttrain.tune.history import FAILED, FINISHED, STOPPED, History, Trial
from disttrain.tune.importance import importances
from disttrain.tune.search_file import SearchFile
from disttrain.tune.space import Space

REPORT = "report.html"


def render_report(history: History, settings: SearchFile, space: Space, epochs: int, title: str) -> str:
    """The whole page."""
    metric = settings.metric
    parts = [f"<h1>{escape(title)}</h1>", _tiles(history, metric, epochs)]
    parts += _sections({one.name: one.svg for one in drawn_charts(history, settings, space, epochs)})
    parts.append(section("Trials", _table(history, space, metric)))
    return page(title, parts)


def drawn_charts(history: History, settings: SearchFile, space: Space, epochs: int) -> list[Drawn]:
    """Every chart; none before the first report."""
    metric = settings.metric
    shown = [one for one in history.trials.values() if one.reports]
    if not shown:
        return []
    drawn = [
        Drawn("best_over_time", _best_over(history, metric, by_epochs=False)),
        Drawn("best_over_epochs", _best_over(history, metric, by_epochs=True)),
        Drawn("learning_curves", _curves(shown, metric, epochs)),
        Drawn("settings", _coordinates(history, space, shown, metric)),
    ]
    found = importances(space.domains, shown)
    if found is not None:
        rows = [(field, share, f"{share:.0%}") for field, share in found.items()]
        drawn.append(Drawn("what_mattered", bars(rows)))
    return drawn


def _sections(svg: dict[str, str]) -> list[str]:
    if not svg:
        return [note("No trial has reported yet.")]
    mattered = note(
        "The share of the variance of the last values that each setting explains on its own, chance taken off. "
        "Trials that were stopped early count with what they had reached."
    ) + svg.get("what_mattered", "")
    curves = (
        note(
            "The colour is how far a trial came: from violet, stopped early, to yellow, trained to its end. "
            "A dot is where it was stopped."
        )
        + svg["learning_curves"]
    )
    figures = [
        f"<h2>Best so far, over time</h2>{svg['best_over_time']}",
        f"<h2>Best so far, over the epochs of all trials</h2>{svg['best_over_epochs']}",
        f"<h2>Learning curves</h2>{curves}",
        f"<h2>What mattered</h2>{mattered if 'what_mattered' in svg else note('Too few trials to tell.')}",
    ]
    lines = note("A line is a trial, its colour the last value: from violet, the worst, to yellow, the best.")
    return [charts(figures), section("Settings", lines, f'<div class="wide">{svg["settings"]}</div>')]


def _tiles(history: History, metric: str, epochs: int) -> str:
    ended = sum(history.count(one) for one in (FINISHED, STOPPED, FAILED))
    chosen = [Tile(f"{ended} of {len(history.trials)}", "trials ended")]
    if (best := history.best) is not None:
        chosen.insert(0, Tile(f"{best.value:.4f}", f"{metric} of trial {best.name}, the best"))
    whole = epochs * (history.count(FINISHED) + history.count(STOPPED))
    spent = sum(one.epoch for one in history.trials.values() if one.state in (FINISHED, STOPPED))
    chosen.append(Tile(str(history.epochs_spent), "epochs trained"))
    if whole:
        chosen.append(Tile(f"{1 - spent / whole:.0%} of {whole} epochs", "saved by stopping early"))
    if failed := history.count(FAILED):
        chosen.append(Tile(str(failed), "failed"))
    return tiles(chosen)


def _best_over(history: History, metric: str, by_epochs: bool) -> str:
    began = history.starts[0]["time"] if history.starts else 0.0
    points = [
        (float(epochs) if by_epochs else (time - began) / 60, value) for time, epochs, value in history.best_curve
    ]
    end = float(history.epochs_spent) if by_epochs else (history.last_time - began) / 60
    points.append((end, points[-1][1]))
    return chart([Line(points, "var(--accent)", 2, is_step=True)], "epochs" if by_epochs else "minutes", metric)


def _values_range(trials: list[Trial], maximize: bool) -> Range:
    """Without the worst tenth of the reports: a run that went astray would flatten all others."""
    values = sorted(report.value for one in trials for report in one.reports)
    cut = len(values) // 10
    return Range.around(values[cut:] if maximize else values[: len(values) - cut])


def _curves(trials: list[Trial], metric: str, epochs: int) -> str:
    lines = [
        Line(
            [(float(one.epoch), one.value) for one in trial.reports],
            color_between(trial.epoch / epochs),
            title=_told(trial, metric),
            marks_end=trial.state == STOPPED,
        )
        for trial in trials
    ]
    return chart(lines, "epoch", metric, _values_range(trials, metric == "accuracy"))


def _coordinates(history: History, space: Space, trials: list[Trial], metric: str) -> str:
    values = _values_range(trials, history.maximize)
    order = sorted(trials, key=lambda one: one.value or 0.0, reverse=not history.maximize)  # the best on top
    axes = [(field.partition(".")[2], *_ends(one.extremes())) for field, one in space.domains.items()]
    axes.append((metric, f"{values.low:.4g}", f"{values.high:.4g}"))
    lines = []
    for trial in order:
        share = min(max(values.place(trial.value or 0.0), 0.0), 1.0)
        points = [
            (float(number), place)
            for number, (field, domain) in enumerate(space.domains.items())
            if field in trial.values and (place := domain.position(trial.values[field])) is not None
        ]
        quality = share if history.maximize else 1 - share
        width = 2.5 if trial is history.best else 1.2
        lines.append(
            Line([*points, (float(len(axes) - 1), share)], color_between(quality), width, title=_told(trial, metric))
        )
    return parallel(axes, lines)


def _ends(values: tuple[Any, ...]) -> tuple[str, str]:
    return _short(values[0]), _short(values[-1])


def _table(history: History, space: Space, metric: str) -> str:
    fields = list(space.domains)
    head = ["trial", "state", "epoch", metric, *(field.partition(".")[2] for field in fields), ""]
    worst = float("-inf") if history.maximize else float("inf")
    sign = -1 if history.maximize else 1
    trials = sorted(history.trials.values(), key=lambda one: sign * (worst if one.value is None else one.value))
    rows = [
        (
            trial.name, trial.state, str(trial.epoch), "" if trial.value is None else f"{trial.value:.4f}",
            *(_short(trial.values.get(field, "")) for field in fields), trial.reason[:120],
        )
        for trial in trials
    ]  # fmt: skip
    return table(head, rows, ["failed" if one.state == FAILED else "" for one in trials])


def _told(trial: Trial, metric: str) -> str:
    settings = ", ".join(f"{field}={_short(value)}" for field, value in trial.values.items())
    return f"trial {trial.name}, {trial.state}: {metric} {trial.value:.4f} after epoch {trial.epoch}; {settings}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
