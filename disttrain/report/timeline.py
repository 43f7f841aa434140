"""What happened to a run, in the order of time: starts and restarts, warnings and errors of the ranks, its end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from disttrain.report.read import Run
from disttrain.run_dir import LOGS

Kind = Literal["info", "good", "warn", "bad"]

_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([A-Z]+) rank (\d+): (.*)$")
_KINDS: dict[str, Kind] = {"WARNING": "warn", "ERROR": "bad", "CRITICAL": "bad"}
_WORTH_TELLING = re.compile(r"\bis slow: ")
"""Lines at the level INFO that belong to what happened: a straggler in the table of step times."""
_MOST_BYTES = 4 << 20  # of one rank's log, its end
_MOST_LOGS = 64
_MOST_TEXT = 1200


class Event(NamedTuple):
    """Something that happened."""

    time: float
    """Seconds since 1970."""
    kind: Kind
    text: str
    step: int | None = None


def events_of(run: Run) -> list[Event]:
    """All that the files of a run tell, oldest first."""
    found = [*_starts(run), *_nonfinite(run), *_logged(run.folder / LOGS), *_end(run)]
    return sorted(found, key=lambda one: one.time)


def _starts(run: Run) -> Iterator[Event]:
    before: dict[str, Any] | None = None
    for start in run.starts:
        where = f"{start.get('world_size', '?')} x {start.get('device', '?')} on {start.get('host', '?')}"
        where += f", by {start.get('launcher', '?')}"
        step = int(start.get("first_step") or 0)
        changes = "" if before is None else _changes(before, start)
        if before is None:
            yield Event(_seconds(start), "info", f"started on {where}", step)
        else:
            again = f"went on from step {step:,}" if step else "began again at step 0"
            yield Event(_seconds(start), "warn", f"{again} on {where}{changes}", step)
        before = start


def _changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What is another one than at the start before."""
    old, new = described(before), described(after)
    changed = [f"{key}: {old.get(key)} -> {value}" for key, value in new.items() if old.get(key) != value]
    return f" ({'; '.join(changed)})" if changed else ""


def described(start: dict[str, Any]) -> dict[str, str]:
    """What of a start may explain a difference: machine, ranks, versions, data."""
    plain = {"ranks": "world_size", "launcher": "launcher", "host": "host", "device": "device", "commit": "git_commit"}
    found = {label: str(start[key]) for label, key in plain.items() if start.get(key) is not None}
    if "commit" in found:
        found["commit"] = found["commit"][:12]
    versions = start.get("versions")
    if isinstance(versions, dict):
        found |= {f"{name}": str(value) for name, value in versions.items() if value is not None}
    data = start.get("data")
    if isinstance(data, dict) and data.get("fingerprint"):
        found["data"] = str(data["fingerprint"])[:12]
    return found


def restarts_of(run: Run) -> list[Event]:
    """The starts after the first one."""
    return list(_starts(run))[1:]


def _nonfinite(run: Run) -> Iterator[Event]:
    for one in run.nonfinite:
        text = f"loss or gradient of step {one.get('step')} not finite: {one.get('remedy')}"
        yield Event(_seconds(one), "bad", f"{text}; {len(one.get('suspects') or [])} samples to blame", one.get("step"))


def _logged(folder: Path) -> Iterator[Event]:
    """Warnings and errors of the ranks' logs; what several ranks say alike is told once."""
    told: dict[tuple[str, str], Event] = {}
    ranks: dict[tuple[str, str], list[int]] = {}
    for path in sorted(folder.glob("rank_*.log"), key=_rank_of)[:_MOST_LOGS]:
        for event, rank in _read_log(path):
            key = (event.text, time.strftime("%Y-%m-%d %H:%M", time.localtime(event.time)))
            told.setdefault(key, event)
            ranks.setdefault(key, []).append(rank)
    for key, event in told.items():
        who = sorted(set(ranks[key]))
        named = ", ".join(map(str, who[:8])) + (f" and {len(who) - 8} more" if len(who) > 8 else "")
        yield event._replace(text=f"rank{'s' if len(who) > 1 else ''} {named}: {event.text}")


def _rank_of(path: Path) -> int:
    number = path.stem.partition("_")[2]
    return int(number) if number.isdecimal() else -1


def _read_log(path: Path) -> Iterator[tuple[Event, int]]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return
    record: list[str] = []
    for line in [*text.splitlines(), "end"]:
        if _LINE.match(line) or line == "end":
            if record and (event := _event(record)) is not None:
                yield event
            record = [line]
        else:
            record.append(line)


def _event(record: list[str]) -> tuple[Event, int] | None:
    found = _LINE.match(record[0])
    if found is None:
        return None
    moment, milliseconds, level, rank, first = found.groups()
    text = "\n".join([first, *record[1:]])
    kind = _KINDS.get(level)
    if kind is None and _WORTH_TELLING.search(text):
        kind, text = "warn", next(line for line in record if _WORTH_TELLING.search(line))
    if kind is None:
        return None
    cut = text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} ..."
    seconds = time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M:%S")) + int(milliseconds) / 1000
    return Event(seconds, kind, cut), int(rank)


def _end(run: Run) -> Iterator[Event]:
    updated = run.status.get("updated")
    if not isinstance(updated, int | float):
        return
    state, step = str(run.status.get("state")), run.status.get("step")
    texts: dict[str, tuple[Kind, str]] = {
        "finished": ("good", f"finished at step {step:,}"),
        "stopped": ("warn", f"stopped at step {step:,}, as it was asked to"),
        "failed": ("bad", f"ended by an error after step {step:,}"),
    }
    kind, text = texts.get(state, ("info", f"last heard of at step {step:,} of {run.status.get('total_steps'):,}"))
    yield Event(float(updated), kind, text, step)


def _seconds(values: dict[str, Any]) -> float:
    moment = values.get("time")
    return float(moment) if isinstance(moment, int | float) else 0.0
