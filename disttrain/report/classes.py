"""How good the model is, class by class: table, confusion matrix, precision and recall, calibration, mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from disttrain.report.curves import Drawn
from disttrain.report.page import charts, color_of, legend, note, section, table
from disttrain.report.read import Run
from disttrain.report.scores import calibration, precision_recall
from disttrain.report.svg import Line, Range, chart

if TYPE_CHECKING:
    from disttrain.report.predictions import Mistake, Predictions

_MOST_CLASSES = 16
"""Of a confusion matrix as one; of more classes the commonest confusions are listed."""
_MOST_CURVES = 8
_MOST_POINTS = 200
_WHOLE = Range(0.0, 1.0)


def table_section(runs: Sequence[Run]) -> str:
    """Each class with its figures, and the confusion matrix, of every run that has a test split."""
    parts = []
    for run in runs:
        if not run.test.get("per_class"):
            continue
        title = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
        parts.append(f"<figure>{title}{_per_class(run.test)}</figure><figure>{title}{_matrix(run.test)}</figure>")
    return section("Classes of the test split", f'<div class="charts">{"".join(parts)}</div>') if parts else ""


def _per_class(test: dict[str, Any]) -> str:
    rows = [
        (name, *(_percent(scores.get(key)) for key in ("precision", "recall", "f1")), f"{scores.get('support', 0):,}")
        for name, scores in test["per_class"].items()
    ]
    return table(("class", "precision", "recall", "F1", "samples"), rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _matrix(test: dict[str, Any]) -> str:
    names, counts = test["class_names"], test["confusion_matrix"]
    if len(names) > _MOST_CLASSES:
        return _confusions(names, counts)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = [f"<tr><th>true \\ predicted</th>{head}</tr>"]
    for name, row in zip(names, counts, strict=True):
        cells = "".join(_cell(count, sum(row), names[at] == name) for at, count in enumerate(row))
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table class="matrix">{"".join(rows)}</table></div>'


def _cell(count: int, total: int, is_right: bool) -> str:
    share = count / total if total else 0.0
    # Mistakes are rare: their colour is stronger, so that one sees where they are.
    strength = 100 * (0.08 + 0.55 * share if is_right else min(0.8, 6 * share))
    color = "var(--good)" if is_right else "var(--bad)"
    style = f"background:color-mix(in srgb,{color} {strength:.0f}%,transparent)"
    return f'<td style="{style}" title="{share:.2%} of the row">{count:,}</td>'


def _confusions(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    pairs = [
        (count, true, said)
        for true, row in zip(names, counts, strict=True)
        for said, count in zip(names, row, strict=True)
        if count and said != true
    ]
    pairs.sort(key=lambda one: -one[0])
    return table(("true", "taken for", "times"), [(true, said, f"{count:,}") for count, true, said in pairs[:20]])


def probability_charts(run: Run, found: Predictions) -> list[Drawn]:
    """Precision over recall for each class, and how far probabilities can be believed."""
    lines = []
    for number, (_, points, average, name) in enumerate(_worst_curves(found)):
        lines.append(Line(points, color_of(number), 1.6, f"{name}: average precision {average:.4f}"))
    lowest = min((point[1] for line in lines for point in line.points), default=0.0)
    curve = chart(lines, "recall", "precision", Range(max(0.0, lowest - 0.05), 1.005), Range(0.0, 1.005))
    bins = calibration(found.probabilities, found.truth)
    points = [(float(x), float(y)) for x, y in zip(bins.confidence, bins.accuracy, strict=True)]
    share = [(float(x), float(n / len(found.truth))) for x, n in zip(bins.confidence, bins.samples, strict=True)]
    low = max(0.0, float(bins.confidence.min()) - 0.05)
    reliability = chart(
        [
            Line([(low, low), (1.0, 1.0)], "var(--soft)", 1, "as sure as right", opacity=0.7),
            Line(share, color_of(7), 1.2, "share of the samples", opacity=0.8),
            Line(points, color_of(0), 1.8, f"expected calibration error {bins.error:.4f}", dots=True),
        ],
        "highest probability", "share that is right", _WHOLE, Range(low, 1.005),
    )  # fmt: skip
    name = run.name.replace("/", "_")
    return [Drawn(f"precision_recall_{name}", curve), Drawn(f"calibration_{name}", reliability)]


def _worst_curves(found: Predictions) -> list[tuple[int, list[tuple[float, float]], float, str]]:
    """(class, points, average precision, name), the classes with the lowest average precision where there are many."""
    curves = []
    for at, name in enumerate(found.class_names):
        result = precision_recall(found.probabilities[:, at], found.truth == at)
        if result is not None:
            kept = np.unique(np.linspace(0, len(result.recall) - 1, _MOST_POINTS).astype(int))
            points = [(float(result.recall[one]), float(result.precision[one])) for one in kept]
            curves.append((at, points, result.average, name))
    return sorted(sorted(curves, key=lambda one: one[2])[:_MOST_CURVES], key=lambda one: one[0])


def averages(found: Predictions) -> dict[str, float]:
    """Average precision of each class that has samples."""
    results = {
        name: precision_recall(found.probabilities[:, at], found.truth == at)
        for at, name in enumerate(found.class_names)
    }
    return {name: result.average for name, result in results.items() if result is not None}


def probability_section(run: Run, found: Predictions | str, is_only: bool) -> str:
    """Precision and recall, calibration, and the surest mistakes; or why they cannot be had."""
    title = "Probabilities and mistakes" + ("" if is_only else f": {run.name}")
    if isinstance(found, str):
        return section(title, note(f"Not shown: {found}"))
    drawn = probability_charts(run, found)
    curves = _worst_curves(found)
    names = [(f"{name} (AP {average:.4f})", color_of(number)) for number, (_, _, average, name) in enumerate(curves)]
    error = calibration(found.probabilities, found.truth).error
    sure = [(f"calibration (error {error:.4f})", color_of(0)), ("share of the samples", color_of(7))]
    figures = [f"{legend(names)}{drawn[0].svg}", f"{legend(sure)}{drawn[1].svg}"]
    return section(title, charts(figures), _mistakes(found.mistakes))


def _mistakes(mistakes: Sequence[Mistake]) -> str:
    if not mistakes:
        return note("No sample of the test split is taken for another class.")
    tiles = "".join(
        f'<figure><img src="{one.picture}" alt="sample {one.sample}"><figcaption>{escape(one.answer)}? '
        f'{one.probability:.1%}<br><span class="soft">is {escape(one.truth)}, #{one.sample}</span></figcaption>'
        "</figure>"
        for one in mistakes
    )
    return f'<h3>The surest mistakes, and what the model takes them for</h3><div class="mistakes">{tiles}</div>'
