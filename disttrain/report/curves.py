"""Charts over the steps of one run or of several: learning, speed, where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from disttrain.report.page import charts, color_of, legend, note, section
from disttrain.report.read import Run, Series
from disttrain.report.series import fitting_range, smoothed, thinned
from disttrain.report.svg import Line, Mark, Range, chart, stacked
from disttrain.report.timeline import restarts_of

_SMOOTH_FROM = 60  # points: fewer are drawn as they are
PARTS = ("data", "forward", "backward", "allreduce", "optimizer", "logging")
_PART_NAMES = {"data": "waiting for data", "allreduce": "waiting for other ranks"}
_DURATIONS = (("step_percentiles_ms/p50", "median", 1.0), ("step_percentiles_ms/p95", "slowest twentieth", 0.45))
_EXCHANGE = (("exchange_ms/exposed", "for which the rank waits", 1.0), ("exchange_ms/total", "all of it", 0.45))


class Drawn(NamedTuple):
    """A chart with the name of its file."""

    name: str
    svg: str


class Curves:
    """The charts of a report, all over the same steps."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.x_range = Range(0.0, float(max([1, *(run.last_step for run in runs)])) * 1.01)
        self._marks = {run.name: _marks(run, number, len(runs)) for number, run in enumerate(runs)}

    def learning(self) -> list[Drawn]:
        """Loss, accuracy, learning rate and the norm of the gradient."""
        drawn = [self._metric("loss"), self._metric("accuracy"), self._plain("lr", "learning rate")]
        drawn.append(self._plain("grad_norm", "norm of the gradient"))
        return [one for one in drawn if one is not None]

    def speed(self) -> list[Drawn]:
        """Samples per second, the time of a step, its parts, and the exchange of gradients."""
        drawn = [self._plain("samples_per_second", "samples per second", from_zero=True)]
        drawn.append(self._pair("step_time", "ms of a step: median, slowest twentieth", _DURATIONS))
        drawn += [self._parts(run) for run in self.runs]
        drawn.append(self._pair("exchange", "ms exchanging gradients: exposed, all", _EXCHANGE))
        return [one for one in drawn if one is not None]

    def _metric(self, key: str) -> Drawn | None:
        """Training thin and the validation split with dots, since both have the same scale."""
        lines: list[Line] = []
        shown: list[Series] = []
        for number, run in enumerate(self.runs):
            for split in ("train", "val"):
                series = thinned(run.series(split, key))
                if not series:
                    continue
                color = color_of(number if len(self.runs) > 1 else int(split == "val"))
                title = f"{run.name}: {key} of the {'training' if split == 'train' else 'validation'} samples"
                lines += _validation(series, color, title) if split == "val" else self._training(series, color, title)
                shown.append(series)
        if not lines:
            return None
        y_range, is_cut = fitting_range(shown)
        label = f"{key} (peaks cut off)" if is_cut else key
        if key == "accuracy":
            y_range = _accuracy_range(shown)
        return Drawn(key, chart(lines, "step", label, y_range, self.x_range, self.all_marks()))

    def _training(self, series: Series, color: str, title: str) -> list[Line]:
        if len(series) < _SMOOTH_FROM:
            return [Line(series, color, 1.5, title, opacity=0.85)]
        return [Line(series, color, 1, title, opacity=0.3), Line(smoothed(series), color, 1.5, title, opacity=0.85)]

    def _plain(self, key: str, label: str, from_zero: bool = False) -> Drawn | None:
        found = [(number, run, thinned(run.series("train", key))) for number, run in enumerate(self.runs)]
        drawn = [one for one in found if one[2]]
        if not drawn:
            return None
        lines = [Line(series, color_of(number), 1.5, f"{run.name}: {label}") for number, run, series in drawn]
        all_series = [series for _, _, series in drawn]
        y_range, is_cut = fitting_range(all_series)
        if from_zero:
            y_range, is_cut = Range.from_zero([value for one in all_series for _, value in one]), False
        text = f"{label} (peaks cut off)" if is_cut else label
        return Drawn(key, chart(lines, "step", text, y_range, self.x_range, self.all_marks()))

    def _pair(self, name: str, label: str, keys: Sequence[tuple[str, str, float]]) -> Drawn | None:
        """Two values of one kind in a chart, the second one fainter: (key, what it is, opacity)."""
        lines = [
            Line(series, color_of(number), 1.5, f"{run.name}: {what}", opacity=opacity)
            for number, run in enumerate(self.runs)
            for key, what, opacity in keys
            if (series := thinned(run.series("train", key)))
        ]
        if not any(len(line.points) > 1 for line in lines):
            return None
        y_range, is_cut = fitting_range([list(line.points) for line in lines])
        y_range = Range(0.0, y_range.high)
        text = f"{label} (peaks cut off)" if is_cut else label
        return Drawn(name, chart(lines, "step", text, y_range, self.x_range, self.all_marks()))

    def _parts(self, run: Run) -> Drawn | None:
        key = parts_key(run)
        lines = [line for line in run.lines if isinstance(line.get(key), dict)]
        if len(lines) < 2:
            return None
        kept = lines[:: max(1, len(lines) // 200)]
        layers = [
            (
                _PART_NAMES.get(part, part),
                color_of(number),
                [(float(line["step"]), float(line[key].get(part) or 0.0)) for line in kept],
            )
            for number, part in enumerate(PARTS)
        ]
        label = "ms per step" if len(self.runs) == 1 else f"{run.name}: ms per step"
        name = "step_parts" if len(self.runs) == 1 else f"step_parts_{run.name.replace('/', '_')}"
        return Drawn(name, stacked(layers, "step", label, self.x_range, self._marks[run.name]))

    def all_marks(self) -> list[Mark]:
        """The restarts of all runs."""
        return [mark for marks in self._marks.values() for mark in marks]


def parts_key(run: Run) -> str:
    """The parts of a step by the clock of its device, where it has one: the host runs ahead of a GPU."""
    return "device_step_ms" if any("device_step_ms" in line for line in run.lines) else "step_ms"


def learning_section(curves: Curves) -> str:
    """Charts and what their colours mean."""
    runs, drawn = curves.runs, curves.learning()
    if not drawn:
        return section("Learning", note("metrics.jsonl has no line yet."))
    if len(runs) == 1:
        has_val = any(line.get("split") == "val" for line in runs[0].lines)
        names = [("training", color_of(0)), *([("validation", color_of(1))] if has_val else [])]
    else:
        names = [(run.name, color_of(number)) for number, run in enumerate(runs)]
    named = legend([*names, *([("restart", "var(--mark)")] if len(runs) == 1 and curves.all_marks() else [])])
    told = note("Thin lines are training samples, dots the validation split.") if len(runs) > 1 else ""
    return section("Learning", told, named, charts(one.svg for one in drawn))


def speed_section(curves: Curves) -> str:
    """Throughput and the parts of a step, with restarts marked."""
    drawn = curves.speed()
    if not drawn:
        return ""
    has_parts = any(one.name.startswith("step_parts") for one in drawn)
    names = [(_PART_NAMES.get(part, part), color_of(number)) for number, part in enumerate(PARTS)] if has_parts else []
    by_device = {parts_key(run) == "device_step_ms" for run in curves.runs}
    clock = "by the clock of its GPU" if by_device == {True} else "by the clock of its host"
    told = f"The parts of a step are those of rank zero, {clock}, as means since the line before. " if has_parts else ""
    marked = "A dashed line is where the run went on after it was stopped or lost." if curves.all_marks() else ""
    text = note(told + marked) if told or marked else ""
    return section("Speed", text, legend(names) if names else "", charts(one.svg for one in drawn))


def _validation(series: Series, color: str, title: str) -> list[Line]:
    return [Line(series, color, 2, title, dots=len(series) <= 60)]


def _accuracy_range(shown: list[Series]) -> Range:
    """From a little below the fifth percentile: the first lines of a run would flatten the rest."""
    values = sorted(value for series in shown for _, value in series)
    low = values[len(values) // 20]
    return Range(max(0.0, low - 0.25 * (1 - low) - 0.005), min(1.0, values[-1] + 0.1 * (1 - low)) + 0.002)


def _marks(run: Run, number: int, count: int) -> list[Mark]:
    color = "var(--mark)" if count == 1 else color_of(number)
    return [Mark(float(one.step or 0), f"{run.name}: {one.text}", color) for one in restarts_of(run)]
