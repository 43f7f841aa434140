"""Versions, machines and settings: what two runs, or two starts of one run, do not have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from disttrain.config import Config
from disttrain.report.page import folded, note, section, table
from disttrain.report.read import Run
from disttrain.report.timeline import described

Rows = dict[str, list[str]]

_CHANGED = "changed"


def compared(runs: Sequence[Run]) -> tuple[Rows, Rows]:
    """(versions and machines, settings): name -> the text of each run."""
    machines = [described(run.starts[-1]) if run.starts else {} for run in runs]
    settings = [flat(run.config) for run in runs]
    return _joined(machines), _joined(settings)


def _joined(values: Sequence[dict[str, str]]) -> Rows:
    names = dict.fromkeys(name for one in values for name in one)
    return {name: [one.get(name, "") for one in values] for name in names}


def flat(config: dict[str, Any]) -> dict[str, str]:
    """`section.field` -> text."""
    return {
        f"{section}.{field}": str(value) if isinstance(value, str) else json.dumps(value, default=str)
        for section, fields in config.items()
        if isinstance(fields, dict)
        for field, value in fields.items()
    }


def differing(rows: Rows) -> Rows:
    """Those in which not all runs are the same."""
    return {name: texts for name, texts in rows.items() if len(set(texts)) > 1}


def differences_section(runs: Sequence[Run]) -> str:
    """Of several runs what differs, highlighted, and all the rest folded; of one what is not the default."""
    machines, settings = compared(runs)
    names = [run.name for run in runs]
    if len(runs) == 1:
        defaults = flat(Config().model_dump())
        usual = {name: texts[0] == defaults.get(name) for name, texts in settings.items()}
        changed = {name: [*texts, defaults.get(name, "")] for name, texts in settings.items() if not usual[name]}
        every = {name: [*texts, defaults.get(name, "")] for name, texts in settings.items()}
        return section(
            "Versions and settings",
            table(("", "last start"), _rows(machines), is_text=True),
            "<h3>Settings that are not the default</h3>",
            table(("setting", "value", "default"), _rows(changed), is_text=True),
            folded(
                "All settings",
                table(
                    ("setting", "value", "default"),
                    _rows(every),
                    ["" if usual[one] else _CHANGED for one in every],
                    is_text=True,
                ),
            ),
        )
    both = {**machines, **settings}
    apart = differing(both)
    told = note("Nothing: versions, machines and settings are the same.") if not apart else ""
    return section(
        "What differs between the runs",
        told or table(("", *names), _rows(apart), [_CHANGED] * len(apart), is_text=True),
        folded(
            "All versions and settings",
            table(("", *names), _rows(both), [_CHANGED if name in apart else "" for name in both], is_text=True),
        ),
    )


def _rows(rows: Rows) -> list[tuple[str, ...]]:
    return [(name, *texts) for name, texts in rows.items()]
