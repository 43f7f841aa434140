"""The writers of several ranks: at most one save on its way, and what goes wrong costs no more than that save."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore, TCPStore

from disttrain.checkpoint import CheckpointValues, CheckpointWriter, checkpoint_dir, find_checkpoint, load_checkpoint
from disttrain.checkpoint import writer as writer_module
from disttrain.config.sections import CheckpointConfig

from .saving import logged, names, poll, save, tensors, writers

MIB = 2**20


def unfinished(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.startswith(".")]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(writer_module, "_VISIBLE_S", 0.2)


def test_a_save_is_there_once_every_rank_has_written_its_share(tmp_path: Path) -> None:
    first, second = writers(tmp_path, 2)
    began = time.monotonic()
    first.save(tensors(10, 0), CheckpointValues(10))
    poll(lambda: any(tmp_path.glob(".step_*/tensors_0.safetensors")))
    assert not first.wait(timeout_s=0.1)
    assert first.saved_step is None
    assert first.last_save_s is None
    assert find_checkpoint(tmp_path) is None
    second.save(tensors(10, 1), CheckpointValues(10))
    assert first.wait(10)
    assert second.wait(10)
    assert first.saved_step == second.saved_step == 10
    assert 0.1 < (first.last_save_s or 0) < time.monotonic() - began
    assert find_checkpoint(tmp_path) == checkpoint_dir(tmp_path, 10)


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    first, second = writers(tmp_path, 2)
    first.save(tensors(10, 0), CheckpointValues(10))
    again = threading.Thread(target=first.save, args=(tensors(20, 0), CheckpointValues(20)))
    again.start()
    again.join(0.2)
    assert again.is_alive()
    assert unfinished(tmp_path) == [name for name in names(tmp_path) if "00000010" in name] != []
    second.save(tensors(10, 1), CheckpointValues(10))
    again.join(10)
    assert not again.is_alive()
    assert checkpoint_dir(tmp_path, 10).is_dir()
    second.save(tensors(20, 1), CheckpointValues(20))
    assert first.wait(10)
    assert second.wait(10)
    assert load_checkpoint(checkpoint_dir(tmp_path, 20)).tensors.keys() == (tensors(20, 0) | tensors(20, 1)).keys()


def test_training_may_change_the_tensors_as_soon_as_save_returns(tmp_path: Path) -> None:
    (writer,) = writers(tmp_path)
    state = {"model/w": torch.ones(500_000)}
    for step in (10, 20):
        writer.save(state, CheckpointValues(step))
        state["model/w"].add_(1)
    assert writer.wait(10)
    for step, value in ((10, 1.0), (20, 2.0)):
        assert load_checkpoint(checkpoint_dir(tmp_path, step)).tensors["model/w"].unique().tolist() == [value]


def test_saves_use_the_same_memory(tmp_path: Path) -> None:
    (writer,) = writers(tmp_path)
    save([writer], 10)
    address = writer._copy.address
    save([writer], 20, 30)
    assert writer._copy.address == address


def test_a_rank_with_nothing_to_write_writes_no_file(tmp_path: Path) -> None:
    first, second = writers(tmp_path, 2)
    first.save(tensors(10), CheckpointValues(10))
    second.save({}, CheckpointValues(10))
    assert first.wait(10)
    assert second.wait(10)
    assert names(checkpoint_dir(tmp_path, 10)) == ["manifest.json", "tensors_0.safetensors", "values.json"]


def test_what_an_earlier_start_has_left_is_removed(tmp_path: Path) -> None:
    half = tmp_path / ".step_00000020.0badcafe.1"
    half.mkdir()
    (half / "tensors_0.safetensors").write_bytes(b"half")
    writers(tmp_path)
    assert names(tmp_path) == []


def test_a_rank_of_an_earlier_start_cannot_mix_in(tmp_path: Path) -> None:
    earlier, later = writers(tmp_path, 2), writers(tmp_path, 2)
    earlier[1].save({"model/w1": torch.zeros(1)}, CheckpointValues(10))
    save(later, 10)
    assert load_checkpoint(checkpoint_dir(tmp_path, 10)).tensors["model/w1"].shape == (50, 3)
    earlier[0].close(0)
    earlier[1].close(0)
    assert load_checkpoint(checkpoint_dir(tmp_path, 10)).tensors["model/w1"].shape == (50, 3)


def test_a_folder_that_vanishes_between_saves_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    ranks = writers(folder, 2)
    save(ranks, 10)
    shutil.rmtree(tmp_path / "run")
    save(ranks, 20)
    assert names(folder) == ["latest", "step_00000020"]


def test_a_folder_that_vanishes_during_a_save_costs_that_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"
    first, second = writers(folder, 2)
    with logged(caplog):
        first.save(tensors(10, 0), CheckpointValues(10))
        poll(lambda: any(folder.glob(".step_*/tensors_0*")))  # it may be open still: either way the save is lost
        shutil.rmtree(folder)
        second.save(tensors(10, 1), CheckpointValues(10))
        assert first.wait(20)
        assert second.wait(20)
    assert caplog.text.count("the checkpoint of step 10 was not written: ") == 1
    assert names(folder) == []
    save([first, second], 20)
    assert first.saved_step == second.saved_step == 20


@pytest.mark.usefixtures("impatient")
def test_a_rank_that_never_comes_is_named_and_nothing_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ranks = writers(tmp_path, 4)
    save(ranks, 10)
    with logged(caplog):
        for rank in (0, 2):
            ranks[rank].save(tensors(20, rank), CheckpointValues(20))
        assert ranks[0].wait(20)
        assert ranks[2].wait(20)
    assert "the checkpoint of step 20 was not written: ranks 1,3 wrote nothing within " in caplog.text
    assert ranks[0].saved_step == ranks[2].saved_step == 10
    assert names(tmp_path) == ["latest", "step_00000010"]


@pytest.mark.usefixtures("impatient")
def test_where_ranks_do_not_share_a_file_system_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, config = HashStore(), CheckpointConfig()
    ranks = [CheckpointWriter(tmp_path / f"node_{rank}", store, rank, 2, config) for rank in range(2)]
    with logged(caplog):
        save(ranks, 10)
    assert "rank 1 on " in caplog.text
    assert "does not see it" in caplog.text
    assert "on a shared file system" in caplog.text
    assert [names(tmp_path / f"node_{rank}") for rank in range(2)] == [[], []]


def test_close_does_not_wait_for_ranks_that_do_not_come(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ranks = writers(tmp_path, 2)
    with logged(caplog):
        for rank in range(2):
            ranks[rank].save(tensors(10, rank), CheckpointValues(10))
        assert all(one.wait(10) for one in ranks)
        ranks[0].save(tensors(20, 0), CheckpointValues(20))
        ranks[0].close(timeout_s=0.1)
        assert ranks[0].wait(10)
    assert "step 20 was not written: rank 1 wrote nothing" in caplog.text
    assert names(tmp_path) == ["latest", "step_00000010"]


def test_a_store_that_has_gone_costs_a_warning_of_each_rank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = TCPStore("127.0.0.1", server.port, is_master=False)
    server.set("checkpoints/start", "1234")
    writer = CheckpointWriter(tmp_path, client, 1, 2, CheckpointConfig())
    with logged(caplog):
        writer.save(tensors(10, 1), CheckpointValues(10))
        poll(lambda: any(tmp_path.glob(".step_*/tensors_1.safetensors")))
        del server
        assert writer.wait(20)
    assert "the checkpoint of step 10 was not written: " in caplog.text
    assert names(tmp_path) == []
    writer.close()


def test_values_that_are_no_json_are_refused_at_once(tmp_path: Path) -> None:
    (writer,) = writers(tmp_path)
    with pytest.raises(TypeError):
        writer.save(tensors(10), CheckpointValues(10, scaler={"scale": torch.ones(1)}))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"needs to mount a tmpfs: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(ranks: list[CheckpointWriter], step: int, mib: int) -> None:
    for rank, writer in enumerate(ranks):
        writer.save({f"model/w{rank}": torch.ones(mib * MIB // 4)}, CheckpointValues(step))
    for writer in ranks:
        assert writer.wait(20)


def test_a_full_disk_costs_that_save_and_frees_what_it_took(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small_disk / "checkpoints"
    ranks = writers(folder, 2, keep=1)
    save(ranks, 10)
    with logged(caplog):
        fill(ranks, 20, mib=3)
    assert "the checkpoint of step 20 was not written: rank " in caplog.text
    assert "No space left on device" in caplog.text
    assert names(folder) == ["latest", "step_00000010"]
    assert find_checkpoint(folder) == checkpoint_dir(folder, 10)
    assert shutil.disk_usage(small_disk).free > 3.8 * MIB
    fill(ranks, 30, mib=1)
    assert names(folder) == ["latest", "step_00000030"]


def test_a_disk_that_becomes_read_only_costs_saves_until_it_is_writable(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = writers(small_disk, 2)
    save(ranks, 10)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with logged(caplog):
        save(ranks, 20)
    assert "step 20 was not written: rank 0 on " in caplog.text
    assert "Read-only file system" in caplog.text
    assert find_checkpoint(small_disk) == checkpoint_dir(small_disk, 10)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    save(ranks, 30)
    assert find_checkpoint(small_disk) == checkpoint_dir(small_disk, 30)
