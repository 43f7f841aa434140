"""What is gathered: from NVML, from a cgroup's files, from the names in variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from disttrain.config import build_config
from disttrain.doctor.checks.network import named_interfaces
from disttrain.doctor.checks.units import size
from disttrain.doctor.checks.versions import numbers
from disttrain.doctor.facts import system
from disttrain.doctor.facts.disk import find_disk
from disttrain.doctor.facts.gpus import choose_visible
from disttrain.launch.env.launchers import hosts_of

UUIDS = ["GPU-aa1", "GPU-ab2", "GPU-cc3"]


@pytest.mark.parametrize(
    ("named", "chosen", "unknown"),
    [
        (None, UUIDS, []),
        ("2,0", ["GPU-cc3", "GPU-aa1"], []),
        ("", [], []),
        ("-1", [], []),
        ("0,-1,1", ["GPU-aa1"], []),
        ("1,7,0", ["GPU-ab2"], ["7"]),
        ("GPU-cc", ["GPU-cc3"], []),
        ("GPU-a", [], ["GPU-a"]),
        ("MIG-1234", None, []),
    ],
)
def test_visible_devices_are_chosen_as_cuda_chooses_them(
    named: str | None, chosen: list[str] | None, unknown: list[str]
) -> None:
    assert choose_visible(UUIDS, named) == (chosen, unknown)


@pytest.mark.parametrize(
    ("variable", "value", "chosen"),
    [
        ("GLOO_SOCKET_IFNAME", "eth", []),
        ("GLOO_SOCKET_IFNAME", "eth0,eth7", ["eth0"]),
        ("NCCL_SOCKET_IFNAME", "eth", ["eth0", "eth10"]),
        ("NCCL_SOCKET_IFNAME", "=eth1", []),
        ("NCCL_SOCKET_IFNAME", "=eth10:5000", ["eth10"]),
        ("NCCL_SOCKET_IFNAME", "^lo,docker", ["eth0", "eth10"]),
        ("NCCL_SOCKET_IFNAME", "^=eth0", ["lo", "eth10", "docker0"]),
    ],
)
def test_interfaces_are_named_as_gloo_and_nccl_read_them(variable: str, value: str, chosen: list[str]) -> None:
    assert named_interfaces(variable, value, ["lo", "eth0", "eth10", "docker0"]) == chosen


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", ["node1"]),
        ("node[1-2],x", ["node1", "node2", "x"]),
        ("n[08-10,12]-ib", ["n08-ib", "n09-ib", "n10-ib", "n12-ib"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("", []),
    ],
)
def test_a_host_list_names_every_host(text: str, hosts: list[str]) -> None:
    assert hosts_of(text) == hosts


def test_versions_and_sizes_are_read_and_shown() -> None:
    assert numbers("2.9.1+cu128") == (2, 9, 1)
    assert numbers("2.10.0a0+git1") == (2, 10, 0)
    assert [size(one) for one in (512, 64 << 20, 1536 << 20, 3 << 39)] == ["512 bytes", "64 MiB", "1.5 GiB", "1.5 TiB"]


def test_limits_of_a_container_are_read_from_either_version_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_CGROUPS", tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{512 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{300 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {100 << 20}\n")
    found = system.find_system()
    assert found.quota == 1.5
    assert found.memory_available == 312 << 20
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    for name, value in {"cpu/cpu.cfs_quota_us": 50_000, "cpu/cpu.cfs_period_us": 100_000}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    found = system.find_system()
    assert found.quota == 0.5
    assert found.memory_available is None or found.memory_available > 312 << 20


@pytest.mark.parametrize(
    ("name", "error"), [("planesnet", "is not set"), ("image_folder", "is not set"), ("mnist", None)]
)
def test_data_that_needs_a_path_is_missed_before_the_run(name: str, error: str | None) -> None:
    disk = find_disk(None, build_config({"data": {"name": name}}))
    assert (disk.data_error or "").startswith(error or "")
    assert (disk.data is None) == (error is None)
