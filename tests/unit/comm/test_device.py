"""Which GPU a rank takes, and that no other rank of the job has the same one. The GPUs are pretended here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.device import check_own_gpu, pick_device
from disttrain.comm.failures import RanksFailed
from disttrain.errors import ConfigError
from disttrain.launch.env import RankEnv

from .test_control_plane import _a_process_each, port, ranks  # noqa: F401 (fixtures)


def gpus(monkeypatch: pytest.MonkeyPatch, *uuids: str) -> None:
    """What torch sees in this process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[device.index], name="H100")
    )


def task(local_rank: int, launcher: str = "slurm") -> RankEnv:
    return RankEnv(launcher, local_rank, local_rank, 0, 4, 4, "127.0.0.1", 1)


def test_a_rank_takes_the_gpu_of_its_local_rank_where_all_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, "a", "b", "c", "d")
    assert [pick_device("auto", task(rank)).index for rank in range(4)] == [0, 1, 2, 3]


def test_a_bound_task_takes_the_gpu_that_it_sees_as_number_0(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, "a")
    assert [pick_device("cuda", task(rank)).index for rank in range(4)] == [0, 0, 0, 0]


def test_ranks_of_one_agent_see_the_same_gpus_and_more_of_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, "a", "b")
    with pytest.raises(ConfigError, match="Start at most 2 ranks here"):
        pick_device("cuda", task(2, "torchrun"))


def test_two_ranks_on_one_physical_gpu_are_refused_by_its_uuid(
    monkeypatch: pytest.MonkeyPatch,
    port: int,  # noqa: F811
) -> None:
    gpus(monkeypatch, "GPU-77", "GPU-78")

    def work(control_plane: ControlPlane) -> None:
        check_own_gpu(control_plane, torch.device("cuda", control_plane.env.rank // 2))

    results = ranks(port, 3, work)
    assert all(isinstance(one, RanksFailed) for one in results)
    assert "would both compute on GPU-77 (H100)" in str(results[0])
    assert results[0].exit_code == 2


def test_ranks_with_a_gpu_each_or_on_the_cpu_pass(monkeypatch: pytest.MonkeyPatch, port: int) -> None:  # noqa: F811
    gpus(monkeypatch, "GPU-1", "GPU-2")
    devices = [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")]
    assert ranks(port, 3, lambda plane: check_own_gpu(plane, devices[plane.env.rank])) == [None, None, None]
