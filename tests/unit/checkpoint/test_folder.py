from __future__ import annotations

from pathlib import Path

import pytest
import torch

from disttrain.checkpoint import CheckpointValues, checkpoint_dir, find_checkpoint, find_fault, load_checkpoint
from disttrain.errors import ConfigError, IntegrityError

from .saving import flip_bit, logged, names, save, tensors, writers

FILES = ["tensors_0.safetensors", "tensors_1.safetensors", "values.json", "manifest.json"]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Checkpoints of steps 10 and 20, written by two ranks."""
    save(writers(tmp_path, 2), 10, 20)
    return checkpoint_dir(tmp_path, 10), checkpoint_dir(tmp_path, 20)


def test_what_was_saved_is_what_is_loaded(two: tuple[Path, Path]) -> None:
    loaded = load_checkpoint(two[1])
    assert two[1].name == "step_00000020"
    assert names(two[1]) == sorted(FILES)
    assert loaded.values == CheckpointValues(20)
    expected = tensors(20, 0) | tensors(20, 1)
    assert loaded.tensors.keys() == expected.keys()
    assert all(torch.equal(loaded.tensors[name], expected[name]) for name in expected)
    assert loaded.tensors["model/n0"].dtype == torch.int64


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [3, 40, -3], ids=["begin", "within", "end"])
def test_a_checkpoint_with_one_flipped_bit_is_refused_by_name_and_the_one_before_is_taken(
    two: tuple[Path, Path], name: str, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = two
    content = (newer / name).read_bytes()
    flip_bit(newer / name, min(at, len(content) - 1))
    with logged(caplog):
        assert find_checkpoint(newer.parent) == older
    assert f"checkpoint {newer} is refused: {name} is " in caplog.text
    with pytest.raises(IntegrityError, match=rf"step_00000020 is refused: {name} is .*Use an earlier one"):
        load_checkpoint(newer)


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_lacks_a_file_is_refused(two: tuple[Path, Path], name: str) -> None:
    older, newer = two
    (newer / name).unlink()
    assert find_fault(newer) == f"{name} cannot be read (No such file or directory)"
    assert find_checkpoint(newer.parent) == older


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused(two: tuple[Path, Path], name: str) -> None:
    older, newer = two
    content = (newer / name).read_bytes()
    (newer / name).write_bytes(content[:-1] if name == "values.json" else content[: len(content) // 2])
    assert str(find_fault(newer)).startswith(f"{name} is ")
    assert find_checkpoint(newer.parent) == older


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"sha256": ', '{"manifest_sha256": "", "files": {}}'])
def test_a_manifest_that_is_none_is_refused(two: tuple[Path, Path], text: str) -> None:
    (two[1] / "manifest.json").write_text(text)
    assert str(find_fault(two[1])).startswith("manifest.json is damaged")


def test_a_checkpoint_under_the_name_of_another_step_is_refused(two: tuple[Path, Path]) -> None:
    renamed = two[1].rename(checkpoint_dir(two[1].parent, 30))
    assert find_fault(renamed) == "manifest.json is that of step 20"
    copied = renamed.rename(renamed.with_name("kept for later"))
    assert find_fault(copied) is None


def test_what_was_being_written_when_the_run_was_killed_is_not_seen(tmp_path: Path) -> None:
    save(writers(tmp_path), 10)
    half = tmp_path / ".step_00000020.0badcafe.1"
    half.mkdir()
    (half / "tensors_0.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path) == checkpoint_dir(tmp_path, 10)


def test_where_no_checkpoint_can_be_trusted_the_run_does_not_begin_anew_unasked(two: tuple[Path, Path]) -> None:
    for path in two:
        flip_bit(path / "tensors_1.safetensors")
    with pytest.raises(IntegrityError, match=r"none of the 2 checkpoints .*--resume never"):
        find_checkpoint(two[0].parent)


def test_no_checkpoint_at_all_is_no_error(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "missing") is None


def test_a_named_checkpoint_that_does_not_exist_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume .*there is no such checkpoint folder"):
        load_checkpoint(tmp_path / "step_00000010")


@pytest.mark.parametrize(
    ("has", "says"), [("checkpoints/latest", "is a run directory"), ("model.json", "is a trained model, without")]
)
def test_a_folder_of_another_kind_is_told_as_what_it_is(tmp_path: Path, has: str, says: str) -> None:
    (tmp_path / has).parent.mkdir(exist_ok=True)
    (tmp_path / has).touch()
    (tmp_path / "manifest.json").write_text("{}")  # runs have one too
    with pytest.raises(ConfigError, match=says):
        load_checkpoint(tmp_path)


def test_what_another_rank_has_verified_is_loaded_unverified_but_never_from_a_file_that_is_no_tensors(
    two: tuple[Path, Path],
) -> None:
    flip_bit(two[1] / "tensors_0.safetensors", -1)
    assert load_checkpoint(two[1], verified=True).values == CheckpointValues(20)
    (two[1] / "tensors_0.safetensors").write_bytes(b"no tensors")
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_checkpoint(two[1], verified=True)


def test_a_manifest_of_another_format_is_refused(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disttrain.checkpoint.folder._FORMAT", 3)
    assert find_fault(two[1]) == "manifest.json has format 2, this version of disttrain reads format 3"
