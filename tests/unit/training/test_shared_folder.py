"""One run directory for all nodes. Here ranks are threads, and each may have a run directory of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.failures import RanksFailed
from disttrain.training import shared_folder
from disttrain.training.shared_folder import check_shared

from ..comm.test_control_plane import _a_process_each, port, ranks  # noqa: F401 (fixtures)


def look(control_plane: ControlPlane, run_dir: Path) -> None:
    """As ranks on nodes of one rank each."""
    control_plane.env = dataclasses.replace(control_plane.env, local_world_size=1)
    check_shared(control_plane, run_dir)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_all_see_passes_and_nothing_is_left_in_it(exists: bool, port: int, tmp_path: Path) -> None:  # noqa: F811
    run_dir = tmp_path / "runs/run"
    if exists:
        run_dir.mkdir(parents=True)
    assert ranks(port, 3, lambda plane: look(plane, run_dir)) == [None] * 3
    assert [path.name for path in tmp_path.rglob("*")] == (["runs", "run"] if exists else [])


def test_a_folder_of_each_nodes_own_is_refused_by_name_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
    port: int,  # noqa: F811
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(shared_folder, "_PATIENCE_S", 0.2)
    for rank in range(2):
        (tmp_path / f"disk_{rank}").mkdir()
    results = ranks(port, 2, lambda plane: look(plane, tmp_path / f"disk_{plane.env.rank}/run"))
    assert all(isinstance(one, RanksFailed) for one in results)
    assert f"the run directory {tmp_path}/disk_1/run on " in str(results[0])
    assert [path.name for path in tmp_path.rglob("*")] in (["disk_0", "disk_1"], ["disk_1", "disk_0"])
