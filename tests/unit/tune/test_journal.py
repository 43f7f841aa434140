"""The journal outlives a kill at any moment, and a search is known from it alone."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from disttrain.errors import IntegrityError
from disttrain.tune.history import FAILED, FINISHED, RUNNING, STOPPED, WAITING, History, ended_since_best, history_of
from disttrain.tune.journal import Journal, read_journal
from disttrain.tune.search_file import StopSettings
from disttrain.tune.stop_rules import reason_to_stop

from ..helpers import run_python


def start(**fields: Any) -> dict[str, Any]:
    return {"event": "start", "time": 0.0, "maximize": True, "base": {}, "search": {}, **fields}


def trial(number: int, *values: float, end: str = "", time: float = 1.0) -> list[dict[str, Any]]:
    """The events of one trial that reported these values."""
    events: list[dict[str, Any]] = [
        {"event": "point", "time": time, "trial": number, "values": {"optim.lr": 0.1 * number}},
        {"event": "begin", "time": time, "trial": number, "attempt": 1},
    ]
    events += [
        {"event": "report", "time": time + at / 10, "trial": number, "epoch": at, "value": one}
        for at, one in enumerate(values, 1)
    ]
    return [*events, {"event": "end", "time": time + 1, "trial": number, "state": end}] if end else events


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", clock=lambda: 12.5)
    journal.write("point", trial=0, values={"a": 1e-3})
    journal.write("report", trial=0, value=float("nan"))
    journal.close()
    assert read_journal(tmp_path / "journal.jsonl") == [
        {"time": 12.5, "event": "point", "trial": 0, "values": {"a": 1e-3}},
        {"time": 12.5, "event": "report", "trial": 0, "value": None},
    ]


def test_a_journal_cut_off_anywhere_keeps_its_whole_lines_and_takes_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.write("point", trial=number, values={})
    journal.close()
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        assert len(read_journal(path)) == kept
        journal = Journal(path)
        journal.write("begin", trial=9)
        journal.close()
        assert [one["trial"] for one in read_journal(path)] == [*range(kept), 9]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"{}", b"\x00\x00", b"\xff"])
def test_damage_before_the_end_is_refused_by_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "point"}\n' + line + b'\n{"event": "point"}\n')
    with pytest.raises(IntegrityError, match="line 2 of"):
        read_journal(path)


def test_what_a_full_disk_does_not_take_follows_later_and_no_line_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(path)
    try:
        journal.write("point", trial=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
        journal.write("point", trial=1)
        journal.write("point", trial=2)
        assert [one["trial"] for one in read_journal(path)] == [0]
        assert path.read_bytes().endswith(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    journal.write("point", trial=3)
    journal.close()
    assert [one["trial"] for one in read_journal(path)] == [0, 1, 2, 3]


def test_a_killed_writer_leaves_all_that_it_was_told_is_written(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from disttrain.tune.journal import Journal
journal = Journal(Path({str(tmp_path / "journal.jsonl")!r}))
for number in range(50):
    journal.write("point", trial=number)
    print(number, flush=True)
    if number == 37:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_python(code)
    assert done.returncode == -signal.SIGKILL
    assert len(read_journal(tmp_path / "journal.jsonl")) == len(done.stdout.split()) == 38


def test_a_trial_goes_through_its_states() -> None:
    history = history_of([start(), *trial(0, 0.5, 0.6)])
    assert (history.trials[0].state, history.trials[0].epoch, history.trials[0].value) == (RUNNING, 2, 0.6)
    history.apply(start())  # resumed: whoever ran it is gone
    assert history.trials[0].state == WAITING
    assert [one.number for one in history.open_trials] == [0]
    history.apply({"event": "end", "time": 9.0, "trial": 0, "state": FINISHED})
    assert history.open_trials == []


def test_events_of_a_later_version_are_passed_over() -> None:
    assert history_of([start(), {"event": "something new", "time": 3.0}]).last_time == 3.0


def test_the_best_is_the_best_of_those_that_trained_to_their_end() -> None:
    events = [start(), *trial(0, 0.9, end=STOPPED), *trial(1, 0.5, 0.8, end=FINISHED), *trial(2, 0.95, end=FAILED)]
    history = history_of(events)
    assert history.best is history.trials[1]
    assert history_of(events[:1] + trial(0, 0.9, end=STOPPED)).best is not None
    assert History().best is None


def test_with_a_loss_the_smallest_is_the_best() -> None:
    history = history_of([start(maximize=False), *trial(0, 0.9, end=FINISHED), *trial(1, 0.4, end=FINISHED)])
    assert history.best is history.trials[1]
    assert [value for _, _, value in history.best_curve] == [0.9, 0.4]


def test_epochs_are_counted_over_all_trials() -> None:
    history = history_of([start(), *trial(0, 0.5, 0.7, 0.6, time=1), *trial(1, 0.8, time=2)])
    assert history.epochs_spent == 4
    assert [(epochs, value) for _, epochs, value in history.best_curve] == [(1, 0.5), (2, 0.7), (4, 0.8)]


def test_the_search_ends_by_its_rules() -> None:
    events = [start(), *trial(0, 0.9, end=FINISHED, time=1), *trial(1, 0.5, end=STOPPED, time=5)]
    history = history_of([*events, *trial(2, 0.4, end=STOPPED, time=8)])
    assert ended_since_best(history) == 2
    assert reason_to_stop(StopSettings(), history, 1e9) == ""
    assert "stop.plateau_trials=2" in reason_to_stop(StopSettings(plateau_trials=2), history, 10)
    assert reason_to_stop(StopSettings(plateau_trials=3), history, 10) == ""
    assert "trial 0000 has reached" in reason_to_stop(StopSettings(target=0.9), history, 10)
    assert reason_to_stop(StopSettings(target=0.91), history, 10) == ""
    assert "are over" in reason_to_stop(StopSettings(hours=0.5), history, 1800)
    assert reason_to_stop(StopSettings(hours=0.5), history, 1799) == ""


def test_the_journal_is_readable_json_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("end", trial=1, reason="a\nb")
    journal.close()
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "a\nb"
    assert os.access(tmp_path / "journal.jsonl", os.R_OK)
