"""Which MPI an mpirun on the PATH belongs to. The programs here only say what real ones say of themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disttrain.errors import ConfigError
from disttrain.launch.mpi.implementation import Mpi, find_mpi

OPENMPI_4 = "mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/"
OPENMPI_5 = "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/"
MPICH = "HYDRA build details:\n    Version:                                 5.0.2\n    Release Date:  Fri Sep 25 2026"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.11 Build 20231005 (id: 74c4a23)"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put(path: Path, name: str, says: str) -> None:
    program = path / name
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{says}'\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "name", "major"),
    [(OPENMPI_4, "Open MPI", 4), (OPENMPI_5, "Open MPI", 5), (MPICH, "MPICH", 5), (INTEL, "MPICH", 2021)],
    ids=["openmpi4", "openmpi5", "mpich", "intel"],
)
def test_an_mpirun_is_known_by_its_version(says: str, name: str, major: int, path: Path) -> None:
    put(path, "mpirun", says)
    assert find_mpi(want_mpich=False) == Mpi("mpirun", name, major)


def test_with_the_flag_mpich_is_found_beside_open_mpi(path: Path) -> None:
    put(path, "mpirun", OPENMPI_4)
    put(path, "mpirun.mpich", MPICH)
    assert find_mpi(want_mpich=True) == Mpi("mpirun.mpich", "MPICH", 5)


def test_the_flag_without_mpich_is_refused(path: Path) -> None:
    put(path, "mpirun", OPENMPI_4)
    with pytest.raises(ConfigError, match=r"--mpich, but .*mpirun is of Open MPI 4"):
        find_mpi(want_mpich=True)


def test_no_mpirun_and_an_unknown_one_are_refused_with_the_way_out(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no mpirun on the PATH.*openmpi-bin"):
        find_mpi(want_mpich=False)
    put(path, "mpirun", "LAM 7.0.6")
    with pytest.raises(ConfigError, match=r"says 'LAM 7\.0\.6'"):
        find_mpi(want_mpich=False)


def test_open_mpi_is_told_to_forward_what_ranks_on_other_nodes_need_and_not_to_bind() -> None:
    environ = {"PATH": "/bin", "HOROVOD_CYCLE_TIME": "1", "NCCL_DEBUG": "INFO", "HOME": "/h", "MASTER_PORT": "1"}
    options = Mpi("mpirun", "Open MPI", 4).options(["-np", "2"], environ)
    assert ("--allow-run-as-root" in options) == (os.geteuid() == 0)
    assert "--oversubscribe" not in options
    text = " ".join(options)
    assert "--bind-to none --map-by slot -x HOROVOD_CYCLE_TIME -x MASTER_PORT -x NCCL_DEBUG -x PATH" in text
    assert "HOME" not in text


@pytest.mark.parametrize("given", [["--bind-to", "core"], ["-map-by=socket"]])
def test_the_users_own_binding_stands(given: list[str]) -> None:
    assert "none" not in Mpi("mpirun", "Open MPI", 5).options(given, {})


def test_mpich_needs_no_options() -> None:
    assert Mpi("mpirun", "MPICH", 4).options(["-np", "2"], {"PATH": "/bin"}) == []
