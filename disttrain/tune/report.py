"""`report.html`: a search in one file, to be read offline."""

from __future__ import annotations

from html import escape
from typing import Any

from disttrain.tune.history import FAILED, FINISHED, STOPPED, History, Trial
from disttrain.tune.importance import importances
from disttrain.tune.search_file import SearchFile
from disttrain.tune.space import Space
from disttrain.tune.svg import Line, Range, bars, chart, color_between, parallel

REPORT = "report.html"

_STYLE = """
:root{--ink:#1b1f24;--faint:#d9dee4;--paper:#fff;--accent:#0b62a8}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--faint:#3a424b;--paper:#15191e;--accent:#63b0f0}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
body{max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .3rem}p{margin:.3rem 0 .8rem;max-width:46rem}
svg{max-width:100%;height:auto;display:block}svg text{font-size:11px;fill:var(--ink)}svg .name{font-weight:600}
svg .grid{stroke:var(--faint)}svg .axis{stroke:var(--ink);stroke-opacity:.5}svg .bar{fill:var(--accent)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:0 2rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px}
td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid var(--faint)}th{font-weight:600}
td:first-child,th:first-child{text-align:left}.failed{color:#b3372f}.tiles{display:flex;flex-wrap:wrap;gap:2rem}
.tiles div{border-left:3px solid var(--accent);padding-left:.7rem}
.tiles b{display:block;font-size:1.35rem;font-weight:600}
"""


def render_report(history: History, settings: SearchFile, space: Space, epochs: int, title: str) -> str:
    """The whole page."""
    metric = settings.metric
    shown = [one for one in history.trials.values() if one.reports]
    parts = [f"<h1>{escape(title)}</h1>", _tiles(history, metric, epochs)]
    if shown:
        parts += [
            '<div class="charts">',
            _section("Best so far, over time", _best_over(history, metric, by_epochs=False)),
            _section("Best so far, over the epochs of all trials", _best_over(history, metric, by_epochs=True)),
            "</div>",
            _section(
                "Learning curves",
                "<p>The colour is how far a trial came: from violet, stopped early, to yellow, trained to its end. "
                "A dot is where it was stopped.</p>" + _curves(shown, metric, epochs),
            ),
            _section(
                "Settings",
                "<p>A line is a trial, its colour the last value: from violet, the worst, to yellow, the best.</p>"
                f'<div class="wide">{_coordinates(history, space, shown, metric)}</div>',
            ),
            _section("What mattered", _importance(space, shown)),
        ]
    parts.append(_section("Trials", f'<div class="wide">{_table(history, space, metric)}</div>'))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _tiles(history: History, metric: str, epochs: int) -> str:
    ended = sum(history.count(one) for one in (FINISHED, STOPPED, FAILED))
    tiles = [("trials ended", f"{ended} of {len(history.trials)}")]
    if (best := history.best) is not None:
        tiles.insert(0, (f"{metric} of trial {best.name}, the best", f"{best.value:.4f}"))
    whole = epochs * (history.count(FINISHED) + history.count(STOPPED))
    spent = sum(one.epoch for one in history.trials.values() if one.state in (FINISHED, STOPPED))
    tiles.append(("epochs trained", f"{history.epochs_spent}"))
    if whole:
        tiles.append(("saved by stopping early", f"{1 - spent / whole:.0%} of {whole} epochs"))
    if failed := history.count(FAILED):
        tiles.append(("failed", str(failed)))
    return '<div class="tiles">' + "".join(f"<div><b>{escape(b)}</b>{escape(a)}</div>" for a, b in tiles) + "</div>"


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


def _importance(space: Space, trials: list[Trial]) -> str:
    found = importances(space.domains, trials)
    if found is None:
        return "<p>Too few trials to tell.</p>"
    rows = [(field, share, f"{share:.0%}") for field, share in found.items()]
    return (
        "<p>The share of the variance of the last values that each setting explains on its own, chance taken off. "
        "Trials that were stopped early count with what they had reached.</p>" + bars(rows)
    )


def _table(history: History, space: Space, metric: str) -> str:
    fields = list(space.domains)
    head = ["trial", "state", "epoch", metric, *(field.partition(".")[2] for field in fields), ""]
    rows = ["<tr>" + "".join(f"<th>{escape(one)}</th>" for one in head) + "</tr>"]
    worst = float("-inf") if history.maximize else float("inf")
    sign = -1 if history.maximize else 1
    for trial in sorted(history.trials.values(), key=lambda one: sign * (worst if one.value is None else one.value)):
        cells = [
            trial.name, trial.state, str(trial.epoch), "" if trial.value is None else f"{trial.value:.4f}",
            *(_short(trial.values.get(field, "")) for field in fields), trial.reason[:120],
        ]  # fmt: skip
        kind = ' class="failed"' if trial.state == FAILED else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{escape(one)}</td>" for one in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _told(trial: Trial, metric: str) -> str:
    settings = ", ".join(f"{field}={_short(value)}" for field, value in trial.values.items())
    return f"trial {trial.name}, {trial.state}: {metric} {trial.value:.4f} after epoch {trial.epoch}; {settings}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
