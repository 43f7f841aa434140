from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from disttrain.checkpoint import Snapshot, checkpoint_dir, find_checkpoint, find_fault, load_checkpoint, save_checkpoint
from disttrain.errors import ConfigError, IntegrityError


def snapshot(step: int) -> Snapshot:
    return Snapshot({"model/w": torch.full((50, 3), float(step)), "model/n": torch.tensor(step)}, {"step": step})


def save(folder: Path, *steps: int, keep: int = 3) -> list[Path]:
    return [save_checkpoint(folder, step, snapshot(step), keep) for step in steps]


def flip_byte(path: Path, at: int = -10) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 40)
    loaded = load_checkpoint(path)
    assert path == checkpoint_dir(tmp_path, 40) == tmp_path / "step_00000040"
    assert loaded.values == {"step": 40}
    assert torch.equal(loaded.tensors["model/w"], snapshot(40).tensors["model/w"])
    assert loaded.tensors["model/n"].dtype == torch.int64


def test_the_newest_ones_are_kept_and_latest_names_the_last(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30, 40, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000030", "step_00000040"]
    assert (tmp_path / "latest").read_text() == "step_00000040\n"
    assert find_checkpoint(tmp_path) == tmp_path / "step_00000040"


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save_checkpoint(tmp_path, 10, Snapshot({"model/w": torch.zeros(1)}, {"step": 10}), 3)
    assert set(load_checkpoint(tmp_path / "step_00000010").tensors) == {"model/w"}


@pytest.mark.parametrize("name", ["tensors.safetensors", "values.json"])
def test_a_checkpoint_with_one_flipped_bit_is_refused_by_name_and_the_one_before_is_taken(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = save(tmp_path, 10, 20)
    flip_byte(newer / name, at=-3)
    logging.getLogger("disttrain").addHandler(caplog.handler)
    try:
        assert find_checkpoint(tmp_path) == older
    finally:
        logging.getLogger("disttrain").removeHandler(caplog.handler)
    assert f"checkpoint {newer} is refused: {name} is not what was written" in caplog.text
    with pytest.raises(IntegrityError, match=rf"step_00000020 is refused: {name}.*Use an earlier one"):
        load_checkpoint(newer)


def test_a_checkpoint_that_lacks_a_file_or_has_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    first, second, third = save(tmp_path, 10, 20, 30)
    (second / "tensors.safetensors").unlink()
    (third / "manifest.json").write_text('{"sha256": ')
    assert find_fault(third) == "manifest.json is damaged"
    assert "tensors.safetensors cannot be read" in str(find_fault(second))
    assert find_checkpoint(tmp_path) == first


def test_a_checkpoint_that_was_being_written_when_the_run_was_killed_is_not_seen(tmp_path: Path) -> None:
    (whole,) = save(tmp_path, 10)
    half = tmp_path / ".step_00000020.0badcafe"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path) == whole


def test_where_no_checkpoint_can_be_trusted_the_run_does_not_begin_anew_unasked(tmp_path: Path) -> None:
    (only,) = save(tmp_path, 10)
    flip_byte(only / "tensors.safetensors")
    with pytest.raises(IntegrityError, match=r"none of the 1 checkpoints .*--resume never"):
        find_checkpoint(tmp_path)


def test_no_checkpoint_at_all_is_no_error(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "missing") is None


def test_a_named_checkpoint_that_does_not_exist_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume .*there is no such checkpoint folder"):
        load_checkpoint(tmp_path / "step_00000010")


def test_a_write_that_fails_leaves_the_earlier_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = save(tmp_path, 10)

    def disk_full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("disttrain.checkpoint._flush", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000010"]
    assert find_checkpoint(tmp_path) == whole
    assert json.loads((whole / "manifest.json").read_text())["step"] == 10
