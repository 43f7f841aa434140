"""`disttrain report` on a real run, and its page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from .commands import DISTTRAIN, run
from .long_run import write_long_run

PHONE_WIDTH = 360


def test_the_report_of_a_run_has_its_figures_and_its_mistakes(model_dir: Path, tmp_path: Path) -> None:
    run_dir = model_dir.parent
    command = [*DISTTRAIN, "report", str(run_dir), "--output", "r.html", "--png", "pictures", "--json", "--quiet"]
    outcome = run(command, tmp_path)
    assert outcome.code == 0, outcome.err
    (found,) = json.loads(outcome.out)["runs"]
    test = json.loads((run_dir / "result.json").read_text())["test"]
    assert found["result"]["test"] == test
    wrong = sum(n for at, row in enumerate(test["confusion_matrix"]) for to, n in enumerate(row) if at != to)
    assert len(found["mistakes"]) == min(24, wrong)
    assert set(found["average_precision"]) == {"no-plane", "plane"}
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png;base64,") == len(found["mistakes"])
    assert f"{test['accuracy']:.2%}" in page
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    pictures = {one.name: one.read_bytes() for one in (tmp_path / "pictures").iterdir()}
    assert {"loss.png", "accuracy.png", "lr.png"} <= set(pictures)
    assert all(data.startswith(b"\x89PNG") and len(data) > 3000 for data in pictures.values())


def test_what_cannot_be_shown_is_told(model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(model_dir.parent, copy, ignore=shutil.ignore_patterns("model"))
    outcome = run([*DISTTRAIN, "report", "run", "--quiet"], tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out == "run/report.html\n"
    assert "Not shown: " in (copy / "report.html").read_text()


def test_a_folder_without_a_run_is_a_usage_error(tmp_path: Path) -> None:
    outcome = run([*DISTTRAIN, "report", "."], tmp_path)
    assert outcome.code == 2
    assert len(outcome.errors) == 1


def test_a_long_run_with_restarts_beside_another_is_readable_on_any_screen(
    browser: Any, model_dir: Path, tmp_path: Path
) -> None:
    long_run = write_long_run(tmp_path / "long", steps=10_000, restarts=4)
    command = [*DISTTRAIN, "report", str(long_run), str(model_dir.parent), "--no-predictions", "--output", "r.html"]
    outcome = run(command, tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "r.html").stat().st_size < 5_000_000
    wrong: list[str] = []
    for scheme, width in (("light", 1280), ("dark", PHONE_WIDTH)):
        context = browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda said: wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else wrong.append(one.url))
        page.goto(f"file://{tmp_path / 'r.html'}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 384) is (scheme == "dark")
        charts = page.locator("svg").all()
        assert len(charts) >= 5
        assert {chart.locator("line.mark").count() for chart in charts} == {4}
        assert page.locator("ul.events li", has_text="went on from step").count() == 4
        assert page.locator("tr.changed").count() > 0
        context.close()
    assert wrong == []
