"""What a search leaves for people."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from disttrain.commands.main import main
from disttrain.config import build_config, load_config
from disttrain.report.svg import Line, Range, chart
from disttrain.tune.history import FAILED, FINISHED, STOPPED, History, history_of
from disttrain.tune.importance import importances
from disttrain.tune.journal import Event
from disttrain.tune.outputs import render_csv
from disttrain.tune.report import render_report
from disttrain.tune.search_file import SearchFile, build_search
from disttrain.tune.space import parse_space
from disttrain.tune.table import render_end, render_table
from disttrain.tune.trial_config import base_config, plain_dump, write_best

CONFIG = build_config({"train": {"epochs": 9}})
SETTINGS = build_search(
    {
        "space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}, "optim.name": {"choice": ["adamw", "sgd"]}},
        "workers_per_trial": 2,
    }
)


def search_of(count: int, settings: SearchFile = SETTINGS) -> History:
    """A history in which the learning rate decides and the optimizer does not matter."""
    return history_of(events_of(count, settings))


def events_of(count: int, settings: SearchFile = SETTINGS) -> list[Event]:
    """The journal of it."""
    base = plain_dump(base_config(CONFIG, settings))
    search = settings.model_dump(mode="json")
    events: list[Event] = [{"event": "start", "time": 0.0, "maximize": True, "base": base, "search": search}]
    for number in range(count):
        lr = 10 ** (-3 + 2 * number / max(1, count - 1))
        values = {"optim.lr": lr, "optim.name": ("adamw", "sgd")[number % 2]}
        last = 9 if number > count // 2 else 3
        events.append({"event": "point", "time": number * 10.0, "trial": number, "values": values})
        events.append({"event": "begin", "time": number * 10.0, "trial": number, "attempt": 1})
        for epoch in range(1, last + 1):
            value = 0.5 + 0.4 * number / count + epoch / 1000
            events.append(
                {"event": "report", "time": number * 10.0 + epoch, "trial": number, "epoch": epoch, "value": value}
            )
        state = FINISHED if last == 9 else STOPPED
        events.append({"event": "end", "time": number * 10.0 + last, "trial": number, "state": state})
    return events


def fail_last(history: History) -> None:
    number = len(history.trials)
    history.apply({"event": "point", "time": 1.0, "trial": number, "values": {"optim.lr": 0.05, "optim.name": "sgd"}})
    end = {"state": FAILED, "exit_code": 4, "reason": 'loss is "nan" <here> & now'}
    history.apply({"event": "end", "time": 2.0, "trial": number, **end})


@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_the_report_is_one_well_formed_page_without_a_link_or_script(count: int) -> None:
    history = search_of(count)
    fail_last(history)
    page = render_report(history, SETTINGS, parse_space(SETTINGS.space, CONFIG), 9, "A <search>")
    for svg in re.findall(r"<svg.*?</svg>", page):
        ET.fromstring(svg)
    ET.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>", "", page))
    assert not re.search(r"https?://|<script|src=|@import", page)
    assert "nan," not in page
    assert "A &lt;search&gt;" in page
    assert "&lt;here&gt; &amp; now" in page
    if count == 12:
        assert page.count("<svg") == 5
        assert "saved by stopping early" in page


def test_what_matters_comes_first_and_what_does_not_is_about_nothing() -> None:
    history = search_of(24)
    found = importances(parse_space(SETTINGS.space, CONFIG).domains, list(history.trials.values()))
    assert found is not None
    assert list(found) == ["optim.lr", "optim.name"]
    assert found["optim.lr"] > 0.8
    assert found["optim.name"] < 0.1
    assert importances(parse_space(SETTINGS.space, CONFIG).domains, list(history.trials.values())[:5]) is None


def test_the_table_of_trials_has_a_row_for_each() -> None:
    history = search_of(3)
    fail_last(history)
    rows = list(csv.DictReader(io.StringIO(render_csv(history, "accuracy"))))
    assert [one["trial"] for one in rows] == ["0000", "0001", "0002", "0003"]
    assert rows[2]["state"] == "finished"
    assert float(rows[2]["optim.lr"]) == pytest.approx(0.1)
    assert rows[3]["reason"] == 'loss is "nan" <here> & now'
    assert rows[3]["accuracy"] == ""


def test_best_yaml_is_a_config_that_is_tested_at_its_end_and_says_where_it_comes_from(tmp_path: Path) -> None:
    history = search_of(4)
    path = write_best(tmp_path, history, SETTINGS)
    assert path is not None
    config = load_config(path)
    assert (config.train.test_at_end, config.train.workers, config.optim.name) == (True, 2, "sgd")
    assert config.optim.lr == pytest.approx(0.1)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("0003" in line for line in comments)
    assert any(f"disttrain train {path}" in line for line in comments)
    assert write_best(tmp_path / "none", History(), SETTINGS) is None


def test_the_terminal_says_what_runs_and_what_is_best() -> None:
    history = search_of(3)
    fail_last(history)
    lines = "\n".join(render_table(history, 10, "accuracy", 80.0))
    assert "trials: 4 of 10 drawn: 1 finished, 2 stopped, 1 failed" in lines
    assert "best: trial 0002, accuracy 0.7757 after epoch 9" in lines
    assert "about 2 min to go" in lines
    assert render_end(history, history.trials[3], "accuracy").startswith("trial 0003 failed (exit code 4): loss")


def test_axes_have_round_numbers_within_their_range() -> None:
    ticks = Range(0.137, 0.962).ticks()
    assert ticks == [0.2, 0.4, 0.6, 0.8]
    assert Range.around([5.0]).low < 5 < Range.around([5.0]).high
    ET.fromstring(chart([Line([(0, 1), (2, 3)], "#000", title='a "<b>"')], "x", "y"))


def test_the_report_command_shows_a_search_from_its_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    journal = "".join(json.dumps(one) + "\n" for one in events_of(12))
    (folder / "journal.jsonl").write_text(journal + '{"event": "repo')  # it is being written
    assert main(["report", str(folder), "--json", "--png", str(tmp_path / "png")]) == 0
    found = json.loads(capsys.readouterr().out)
    page = (folder / "report.html").read_text()
    assert found["report"] == str(folder / "report.html")
    assert (found["search"]["best"], found["search"]["ended"]) == (11, 12)
    assert found["search"]["value"] == pytest.approx(0.8757, abs=1e-4)
    assert list(found["search"]["importance"]) == ["optim.lr", "optim.name"]
    assert "Search in found" in page
    assert page.count("<svg") == 5
    names = {"best_over_time", "best_over_epochs", "learning_curves", "settings", "what_mattered"}
    assert {one.stem for one in (tmp_path / "png").iterdir()} == names


@pytest.mark.parametrize(("journal", "more", "said"), [("", [], "no search yet"), ("{}\n", ["."], "report of its own")])
def test_a_search_that_cannot_be_shown_is_refused(
    journal: str, more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "journal.jsonl").write_text(journal)
    assert main(["report", str(tmp_path), *more]) == 2
    assert said in capsys.readouterr().err
