"""Run directories -> the report: one page, one JSON object, or pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from disttrain.report.classes import averages, probability_charts, probability_section, table_section
from disttrain.report.curves import Curves, Drawn, learning_section, speed_section
from disttrain.report.differences import compared, differences_section, differing
from disttrain.report.machines import machine_charts, machine_section
from disttrain.report.page import Tile, note, page, section, table, tiles
from disttrain.report.read import Run
from disttrain.report.scores import calibration
from disttrain.report.timeline import Event, events_of, restarts_of

if TYPE_CHECKING:
    from disttrain.report.predictions import Predictions

Found = Mapping[str, "Predictions | str"]
"""By a run's name its predictions, or why there are none."""

_MOST_EVENTS = 120


def render_page(runs: Sequence[Run], found: Found) -> str:
    """The whole page."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    curves = Curves(runs)
    parts = [f"<h1>{escape(title)}</h1>", _summary(runs)]
    parts += [learning_section(curves), speed_section(curves), machine_section(curves)]
    parts += [_timeline(run, len(runs) == 1) for run in runs]
    parts.append(table_section(runs))
    parts += [probability_section(run, found[run.name], len(runs) == 1) for run in runs if run.name in found]
    parts.append(differences_section(runs))
    return page(f"{title} · disttrain report", parts)


def _summary(runs: Sequence[Run]) -> str:
    figures = {run.name: summary(run) for run in runs}
    if len(runs) == 1:
        return tiles([Tile(text, label) for label, text in figures[runs[0].name].items()])
    labels = dict.fromkeys(label for one in figures.values() for label in one)
    return table(("run", *labels), [(name, *(one.get(label, "") for label in labels)) for name, one in figures.items()])


def summary(run: Run) -> dict[str, str]:
    """The figures that one looks for first: label -> text."""
    test, result, status = run.test, run.result, run.status
    total = status.get("total_steps")
    state = str(result.get("status") or status.get("state") or "unknown")
    figures = {"state": state}
    if test.get("accuracy") is not None:
        figures["test accuracy"] = f"{test['accuracy']:.2%}"
    if test.get("loss") is not None:
        figures["test loss"] = f"{test['loss']:.4f}"
    figures["steps"] = f"{run.last_step:,}" + (f" of {total:,}" if isinstance(total, int) else "")
    if len(run.starts) > 1:
        figures["restarts"] = str(len(run.starts) - 1)
    if seconds := result.get("wall_s"):
        figures["training"] = f"{seconds:,.0f} s" + (", last start" if len(run.starts) > 1 else "")
    if speed := result.get("samples_per_second"):
        figures["samples/s"] = f"{speed:,.0f}"
    if (steps := result.get("step_ms")) and "p50" in steps:
        figures["ms per step (median, 95th percentile)"] = ", ".join(
            f"{steps[one]:,.0f}" if steps[one] >= 100 else f"{steps[one]:.3g}" for one in ("p50", "p95")
        )
    if (share := hidden_share(run)) is not None:
        figures["of the gradient exchange hidden by backward"] = f"{share:.0%}"
    if (scaling := result.get("scaling_efficiency")) is not None:
        figures["of as many times one worker's samples/s"] = f"{scaling:.0%}"
    if (energy := result.get("energy_j_per_1000_samples")) is not None:
        figures["J per 1,000 samples"] = f"{energy:,.1f}"
    if ranks := result.get("world_size"):
        figures["ranks"] = str(ranks)
    return figures


def hidden_share(run: Run) -> float | None:
    """The share of the exchange of gradients during which backward still computed; None where it was not measured."""
    total, hidden = (
        sum(value for _, value in run.series("train", f"exchange_ms/{one}")) for one in ("total", "hidden")
    )
    return hidden / total if total else None


def _timeline(run: Run, is_only: bool) -> str:
    events = events_of(run)
    left_out = len(events) - _MOST_EVENTS
    if left_out > 0:
        events = [*events[: _MOST_EVENTS // 2], *events[-_MOST_EVENTS // 2 :]]
    lines = [
        f'<li class="{one.kind}"><time>{_moment(one.time)}</time>{escape(one.text)}</li>' for one in events
    ]  # fmt: skip
    if left_out > 0:
        lines.insert(_MOST_EVENTS // 2, f'<li class="soft">... {left_out} more: see logs/ ...</li>')
    listed = f'<ul class="events">{"".join(lines)}</ul>' if lines else note("Nothing is recorded.")
    return section("What happened" if is_only else f"What happened: {run.name}", listed)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def as_json(runs: Sequence[Run], found: Found) -> dict[str, Any]:
    """One object: `runs`, each with what the page shows in figures, and what differs between them."""
    machines, settings = compared(runs)
    return {
        "runs": [_run_as_json(run, found.get(run.name)) for run in runs],
        "differences": {**differing(machines), **differing(settings)},
    }


def _run_as_json(run: Run, predictions: Predictions | str | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": run.name,
        "folder": str(run.folder),
        "state": summary(run)["state"],
        "step": run.last_step,
        "exchange_hidden_share": hidden_share(run),
        "restarts": [_event(one) for one in restarts_of(run)],
        "result": run.result or None,
        "lines": len(run.lines),
        "events": [_event(one) for one in events_of(run)],
    }
    if predictions is not None and not isinstance(predictions, str):
        values["average_precision"] = averages(predictions)
        values["calibration_error"] = calibration(predictions.probabilities, predictions.truth).error
        values["mistakes"] = [
            {"sample": one.sample, "truth": one.truth, "answer": one.answer, "probability": one.probability}
            for one in predictions.mistakes
        ]
    elif predictions is not None:
        values["no_predictions"] = predictions
    return values


def _event(one: Event) -> dict[str, Any]:
    return {"time": one.time, "kind": one.kind, "step": one.step, "text": one.text}


def drawn_charts(runs: Sequence[Run], found: Found) -> list[Drawn]:
    """Every chart of the page, each with a name for its file."""
    curves = Curves(runs)
    drawn = [*curves.learning(), *curves.speed(), *machine_charts(curves)]
    for run in runs:
        predictions = found.get(run.name)
        if predictions is not None and not isinstance(predictions, str):
            drawn += probability_charts(run, predictions)
    return drawn


def predictions_of(runs: Sequence[Run], predict: Callable[[Run], Predictions | str]) -> Found:
    """Of the runs that have finished."""
    return {run.name: predict(run) for run in runs if run.test}
