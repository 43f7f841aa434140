"""The folder of a run: who may write there, and what is moved aside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from disttrain.config import Config, build_config, load_config
from disttrain.errors import ConfigError
from disttrain.files import write_atomically, write_json
from disttrain.run_dir import check_run_dir, claim_run_dir, default_run_dir, load_result

CONFIG = build_config({"train": {"epochs": 3}})


def claim(run_dir: Path, config: Config = CONFIG, resume: str = "auto") -> None:
    claim_run_dir(run_dir, config, resume).close()


def refused(run_dir: Path, config: Config = CONFIG, resume: str = "auto") -> str:
    with pytest.raises(ConfigError) as error:
        check_run_dir(run_dir, config, resume)
    return str(error.value)


def test_a_new_folder_is_made_with_the_whole_config_and_claimed_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "deep" / "run"
    check_run_dir(run_dir, CONFIG, "auto")
    assert not run_dir.parent.exists()  # checking changes nothing
    for _ in range(2):
        claim(run_dir, CONFIG, "auto")
        check_run_dir(run_dir, CONFIG, "auto")
    assert load_config(run_dir / "config.yaml") == CONFIG
    assert sorted(path.name for path in run_dir.iterdir()) == ["config.yaml", "logs"]


def test_the_run_of_another_config_is_not_touched_and_the_difference_is_told(tmp_path: Path) -> None:
    claim(tmp_path, CONFIG, "auto")
    other = build_config({"train": {"epochs": 4}, "optim": {"lr": 0.1}})
    message = refused(tmp_path, other)
    for part in ("optim.lr: 0.001 -> 0.1", "train.epochs: 3 -> 4", "--resume never", "another --run-dir"):
        assert part in message
    check_run_dir(tmp_path, other, "never")


@pytest.mark.parametrize(
    "section",
    [
        {"checkpoint": {"keep": 9}},
        {"data": {"placement": "stream", "loader_workers": 0, "prefetch_batches": 1, "device_budget_mib": 1}},
        {"data": {"cache_dir": "/elsewhere"}},
        {"batch": {"eval_batch_size": 5}},
        {"train": {"device": "cpu", "log_every_steps": 1, "epochs": 3}},
        {"comm": {"timeout_s": 5.0}},
    ],
)
def test_what_does_not_change_the_result_may_differ(tmp_path: Path, section: dict[str, Any]) -> None:
    claim(tmp_path, CONFIG, "auto")
    check_run_dir(tmp_path, build_config({"train": {"epochs": 3}, **section}), "auto")


@pytest.mark.parametrize("content", [b"train: [", b"- 1", b"train: {epoch: 3}", b"\xff\xfe\x00", b"train: {epochs: 0}"])
def test_a_config_there_that_cannot_be_read_is_told_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    message = refused(tmp_path)
    assert "holds a config.yaml that cannot be read" in message
    assert "--resume never" in message


def test_never_moves_aside_what_is_there_each_time_to_a_new_name(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for number in range(3):
        claim(run_dir, CONFIG, "never")
        (run_dir / "result.json").write_text(str(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]
    assert [(tmp_path / name / "result.json").read_text() for name in ("run.old-1", "run.old-2", "run")] == list("012")
    claim(run_dir, CONFIG, "never")
    assert not (run_dir / "result.json").exists()


def test_never_leaves_a_folder_alone_that_holds_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    claim(tmp_path / "run", CONFIG, "never")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        assert f"cannot be made: {tmp_path / 'file'} is a file" in refused(run_dir)


def test_a_read_only_file_system_is_told_also_to_root() -> None:
    if not os.statvfs("/sys").f_flag & os.ST_RDONLY and os.access("/sys", os.W_OK) and os.geteuid() == 0:
        pytest.skip("/sys is writable here")
    assert "is not writable: no permission in /sys" in refused(Path("/sys/run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "is not writable: no permission in" in refused(tmp_path / "run")


def test_what_cannot_be_written_after_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written: File exists\. Use another --run-dir"):
        claim(tmp_path, CONFIG, "auto")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"step": 1})
    write_json(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 2}
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half \ud800")
    assert json.loads(path.read_text()) == {"step": 2}
    assert [one.name for one in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, None),
        ('{"status": "finished", "step": 3}', {"status": "finished", "step": 3}),
        ('{"status": "stopped"}', None),
        ('{"sta', None),
        ("{}", None),
    ],
)
def test_only_a_finished_run_has_a_result(tmp_path: Path, content: str | None, expected: dict[str, Any] | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    assert load_result(tmp_path) == expected


def test_the_same_config_file_finds_the_same_run() -> None:
    assert default_run_dir(Path("configs/planesnet.yaml")) == Path("runs/planesnet")


def test_a_changed_config_can_be_accepted(tmp_path: Path) -> None:
    claim(tmp_path, build_config({"optim": {"lr": 0.1}}), "never")
    changed = build_config({"optim": {"lr": 0.2}})
    with pytest.raises(ConfigError, match="--accept-changed-config"):
        check_run_dir(tmp_path, changed, "auto")
    check_run_dir(tmp_path, changed, "auto", accept_changes=True)
