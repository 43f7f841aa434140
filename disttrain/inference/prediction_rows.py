"""Predictions as rows of CSV or lines of JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from disttrain.inference.predictor import NOT_FINITE, label_of

Answer = np.ndarray | str
"""float32 [classes], or why there is none."""


class RowFormat:
    """How predictions are written."""

    def __init__(self, class_names: Sequence[str], as_json: bool) -> None:
        self.class_names, self.as_json = tuple(class_names), as_json
        self._columns = ["path", "label", "probability", *(f"p_{name}" for name in class_names), "error"]

    def header(self) -> str:
        """The first line of a file; empty for JSON."""
        return "" if self.as_json else self._csv([self._columns])

    def render(self, paths: Sequence[str], answers: Sequence[Answer]) -> tuple[str, int]:
        """A line for each, CSV as in RFC 4180 with newlines as on Unix; and how many of them have an `error`."""
        rows = [{"path": path, **self._values(answer)} for path, answer in zip(paths, answers, strict=True)]
        failed = sum("error" in row for row in rows)
        if self.as_json:
            return "".join(json.dumps(row) + "\n" for row in rows), failed
        return self._csv([row.get(column, "") for column in self._columns] for row in rows), failed

    def _values(self, answer: Answer) -> dict[str, Any]:
        if isinstance(answer, str):
            return {"error": answer}
        if not np.isfinite(answer).all():
            return {"error": NOT_FINITE}
        label, probability, by_class = label_of(answer, self.class_names)
        return {"label": label, "probability": probability, **{f"p_{name}": value for name, value in by_class.items()}}

    @staticmethod
    def _csv(rows: Any) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()
