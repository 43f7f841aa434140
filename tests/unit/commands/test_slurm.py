"""What the batch scripts ask before and after a training."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from disttrain.commands.slurm import start
from disttrain.errors import ConfigError


def answer(capsys: pytest.CaptureFixture[str], argv: Sequence[str], name: str) -> list[str]:
    """What a shell makes of a variable in the answer."""
    assert start(argv) == 0
    script = f'{capsys.readouterr().out}\nprintf "%s\\0" "${{{name}[@]}}"'
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("batch: {global_batch_size: 32}\n")
    return "config.yaml"


def test_the_notice_follows_from_the_jobs_signal_and_words_keep_blanks_quotes_and_newlines(
    capsys: pytest.CaptureFixture[str], config: str
) -> None:
    train = [config, "data.path=a b\n'c' $(d) \"e\"", "--run-dir", "the run"]
    argv = ["before", "--signal=B:USR1@120", "--ranks=4", "--", *train]
    assert answer(capsys, argv, "train") == [*train, "checkpoint.notice_s=110"]
    doctor = [*train[:2], "checkpoint.notice_s=110", "--run-dir", str(Path("the run").absolute())]
    assert answer(capsys, argv, "doctor") == doctor
    assert answer(capsys, argv, "run_dir") == [str(Path("the run").absolute())]
    assert answer(capsys, argv, "wait_s") == ["90"]


@pytest.mark.parametrize("where", ["file", "override"])
def test_a_notice_that_the_user_gives_stands(capsys: pytest.CaptureFixture[str], config: str, where: str) -> None:
    train = [config, *(["checkpoint.notice_s=20"] if where == "override" else [])]
    if where == "file":
        Path(config).write_text("checkpoint: {notice_s: 20}\n")
    assert answer(capsys, ["before", "--signal=B:USR1@120", "--ranks=4", "--", *train], "train") == train


@pytest.mark.parametrize(
    ("train", "part"),
    [
        (["config.yaml", "batch.global_batch_size=3"], "make 4 ranks"),
        (["config.yaml", "--workers", "2"], "Leave --workers out"),
        (["missing.yaml"], "cannot read the config file missing.yaml"),
        ([], "no config file"),
    ],
)
def test_what_cannot_train_is_refused_before_any_rank_starts(config: str, train: list[str], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        start(["before", "--ranks=4", "--", *train])


def test_each_task_of_an_array_has_a_seed_and_a_run_directory_of_its_own(
    capsys: pytest.CaptureFixture[str], config: str
) -> None:
    words = answer(capsys, ["row", "--index=3", "--", config], "train")
    assert words == [config, "train.seed=3", "--run-dir", "runs/config/seed_3"]
    with pytest.raises(ConfigError, match="one seed per task"):
        start(["row", "--index=3", "--", config, "train.seed=1"])


def test_or_the_fields_of_a_row(capsys: pytest.CaptureFixture[str], config: str) -> None:
    Path("rows.csv").write_text('optim.lr,data.path\n0.1,"a, b"\n0.2,\n')
    argv = ["row", "--rows=rows.csv", "--", config, "--run-dir", "runs/x"]
    words = answer(capsys, [*argv[:1], "--index=0", *argv[1:]], "train")
    assert words[1:] == ["--run-dir", "runs/x", "optim.lr=0.1", "data.path=a, b", "--run-dir", "runs/x/row_0"]
    assert answer(capsys, [*argv[:1], "--index=1", *argv[1:]], "train")[3:-2] == ["optim.lr=0.2"]
    with pytest.raises(ConfigError, match="--array=0-1"):
        start([*argv[:1], "--index=2", *argv[1:]])


@pytest.mark.parametrize("text", ["optim.lr\n0.1,5\n", 'optim.lr\n"0.1'])
def test_a_file_of_rows_that_is_none_is_refused(config: str, text: str) -> None:
    Path("rows.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"rows\.csv"):
        start(["row", "--rows=rows.csv", "--index=0", "--", config])


@pytest.mark.parametrize(
    ("nodes", "options", "exclude", "said"),
    [
        (["n3"], ["--wanted=1"], "n3", "requeued without n3"),
        (["n3"], ["--wanted=1", "--before=n[1-2]"], "n1,n2,n3", "requeued without n3"),
        (["n3"], ["--wanted=1", "--before=(null)"], "n3", "requeued without n3"),
        (["n3"], ["--wanted=0"], "", "SLURM_EXCLUDE_UNFIT=1 would requeue the job without n3"),
        ([], ["--wanted=1"], "", "other nodes would not help"),
        (["n4"], ["--wanted=1", "--before=n[1-3]"], "", "more than DISTTRAIN_MAX_REQUEUES=3"),
    ],
)
def test_nodes_that_are_not_fit_are_excluded_where_that_is_asked_and_within_a_bound(
    nodes: list[str],
    options: list[str],
    exclude: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"unfit_nodes": nodes})))
    assert start(["unfit", *options]) == 0
    captured = capsys.readouterr()
    assert shlex.split(captured.out) == [f"exclude={exclude}"]
    assert said in captured.err
