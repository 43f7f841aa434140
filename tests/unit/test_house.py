"""Rules of the house that a reader of a change does not count by hand."""

from __future__ import annotations

import ast
import traceback
from pathlib import Path
from typing import Any

import pytest

import disttrain
from disttrain.commands.main import main
from disttrain.loop import train_step
from disttrain.optim.precision import Precision

REPOSITORY = Path(__file__).parents[2]
PACKAGE = Path(disttrain.__file__).parent


def constructors(source: str) -> dict[str, int]:
    """Class -> number of arguments, for those that write their own `__init__`."""
    found = {}
    for one in ast.walk(ast.parse(source)):
        if isinstance(one, ast.ClassDef):
            for part in one.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    given = part.args
                    found[one.name] = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
    return found


def test_constructors_are_counted_without_self() -> None:
    assert constructors("class A:\n  def __init__(self, a, /, b, *, c=1): ...\nclass B: ...") == {"A": 3}


def test_no_constructor_takes_more_than_seven_arguments() -> None:
    counts = {
        f"{path.relative_to(PACKAGE)} {name}": count
        for path in PACKAGE.rglob("*.py")
        for name, count in constructors(path.read_text(encoding="utf-8")).items()
    }
    assert len(counts) > 30
    assert {name: count for name, count in counts.items() if count > 7} == {}


def test_no_file_has_more_than_300_lines_and_the_loop_stays_below_150() -> None:
    paths = [path for room in ("disttrain", "tests", "benchmarks") for path in (REPOSITORY / room).rglob("*.py")]
    lines = {str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {name: count for name, count in lines.items() if count > 300} == {}
    assert lines["disttrain/loop.py"] < 150


def test_from_main_to_backward_there_are_at_most_six_calls_in_five_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []

    def noted(precision: Precision, loss: Any) -> None:
        ours = [one for one in traceback.extract_stack()[:-1] if Path(one.filename).is_relative_to(PACKAGE)]
        if ours[-1].name == train_step.__name__:
            walks.append([f"{Path(one.filename).relative_to(PACKAGE)} {one.name}" for one in ours])
        loss.backward()

    monkeypatch.setattr(Precision, "backward", noted)
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: {name: synthetic_planes, kwargs: {count: 200}}\nmodel: {name: mnist_mlp}\n"
        "batch: {global_batch_size: 64}\ntrain: {epochs: 1}\n"
    )
    assert main(["train", str(config), "--run-dir", str(tmp_path / "run"), "--quiet"]) == 0
    for walk in walks:
        assert walk[0] == "commands/main.py main"
        assert len(walk) <= 6, walk  # of calls: main itself is none, and backward is one
        assert len({step.split()[0] for step in walk} | {"optim/precision.py"}) <= 5, walk
    assert walks
