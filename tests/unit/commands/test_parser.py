"""The command line: options anywhere, mistakes with exit code 2, and help at once."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from disttrain.commands.main import main
from disttrain.commands.parser import parse
from disttrain.config import Config

from ..helpers import run_python


@pytest.mark.parametrize("order", sorted(itertools.permutations(["--quiet", "--run-dir=r", "a.b=1", "c.d=2"])))
def test_options_and_overrides_come_in_any_order(order: tuple[str, ...]) -> None:
    parsed = parse(["train", "x.yaml", *order])
    assert (parsed.config, parsed.quiet, parsed.run_dir) == ("x.yaml", True, "r")
    assert parsed.overrides == [one for one in order if "." in one and "=" in one]


def test_a_setting_with_dashes_is_told_how_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["train", "c.yaml", "--train.epochs=1"])
    assert "--train.epochs=1 (settings are given without dashes: section.field=value)" in capsys.readouterr().err


def test_inputs_come_before_and_after_options() -> None:
    parsed = parse(["predict", "m", "a.png", "--output", "o.csv", "b.png", "--quiet", "c.png"])
    assert (parsed.model, parsed.inputs, parsed.output) == ("m", ["a.png", "b.png", "c.png"], "o.csv")


def test_an_override_may_hold_a_negative_number_or_a_list() -> None:
    assert parse(["train", "x.yaml", "a.b=-1", "c.d=[1, 2]"]).overrides == ["a.b=-1", "c.d=[1, 2]"]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["trian", "x.yaml"],
        ["train", "x.yaml", "--epochs", "3"],
        ["train", "x.yaml", "--quite"],
        ["train", "x.yaml", "--max-restarts", "-1"],
        ["doctor", "--wait", "-1"],
        ["doctor", "--wait", "nan"],
        ["evaluate", "m", "--max-restarts", "1"],
        ["evaluate", "m", "more"],
        ["evaluate", "m", "--split", "everything"],
        ["predict", "m"],
        ["data"],
        ["data", "make", "out", "more"],
        ["data", "make", "out", "--count", "many"],
        ["predict", "m", "a.png", "--device", "tpu"],
    ],
)
def test_a_usage_mistake_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(argv)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "expected"),
    [
        (["train"], 2, "train needs a config file"),
        (["train", "nowhere.yaml"], 2, "cannot read the config file nowhere.yaml"),
        (["train", "x.yaml", "train.epoch=1"], 2, "Did you mean 'epochs'?"),
        (["train", "x.yaml", "--workers", "none"], 2, "--workers none: give a number of at least 1"),
        (["train", "x.yaml", "--workers", "0"], 2, "--workers 0: give a number of at least 1"),
        (["train", "x.yaml", "--workers", "9", "batch.global_batch_size=8"], 2, "smaller than world_size=9"),
        (["data", "info", "x.yaml", "data.name=planesnet"], 3, "needs data.path"),
        (["data", "make", "x.yaml"], 2, "x.yaml exists already"),
        (["data", "make", "out", "--count", "0"], 2, "--count 0: at least one chip"),
        (["predict", "m", "a.png", "--output", "o.txt"], 2, "predictions are written as .csv or .jsonl"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_an_exit_code(
    argv: list[str],
    code: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("data: {name: synthetic_planes}\n")
    assert main(argv) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("disttrain: error: ")
    assert expected in output.err
    assert output.err.count("\n") == 1


def test_the_reference_and_the_schema_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help-config"]) == 0
    assert "optim.lr = 0.001" in capsys.readouterr().out
    assert main(["train", "--schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)["properties"]) == set(Config.model_fields)


def test_data_is_made_and_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("data: {name: planesnet, test_fraction: 0.4}\n")
    described: list[dict[str, Any]] = []
    for output in ("folder", "chips.zip"):
        assert main(["data", "make", output, "--count", "80", "--seed", "2"]) == 0
        assert main(["data", "info", "x.yaml", "--json", f"data.path={output}"]) == 0
        described.append(json.loads(capsys.readouterr().out))
    drawn = ["data.name=synthetic_planes", "data.kwargs.count=80", "data.kwargs.seed=2"]
    assert main(["data", "info", "x.yaml", *drawn]) == 0
    described.append(json.loads(capsys.readouterr().out))
    keys = ("image_shape", "scenes")
    assert described[0]["image_shape"] == [3, 20, 20]
    assert all(one[key] == described[0][key] for one in described for key in keys)
    for one in described:
        splits = one["splits"]
        assert sum(split["count"] for split in splits.values()) == 80
        assert splits["train"]["classes"] == described[0]["splits"]["train"]["classes"]


def test_the_module_answers_like_the_command() -> None:
    code = "import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('disttrain', run_name='__main__')"
    assert run_python(code).stdout.startswith("disttrain 0.")
