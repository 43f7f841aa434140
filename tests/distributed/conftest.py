"""The ranks that wait for work, and commands in processes of their own with a hard limit on their time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import _commands_are_forked  # noqa: F401

from .commands import Commands
from .pool import Measured, RankPool


@pytest.fixture(scope="session")
def ranks(isolated_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    """Four processes that train, evaluate and fit on request, on as many ranks as asked for."""
    pool = RankPool(tmp_path_factory.mktemp("ranks"))
    pool.start()
    yield pool
    pool.close()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Notes a number beside the test's result."""

    def note(name: str, value: object) -> None:
        request.node.user_properties.append((name, value))
        print(f"{name} = {value}")

    return note


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of this session: each of pytest-xdist has its own base below a common one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def commands(tmp_path: Path, shared_folder: Path) -> Iterator[Commands]:
    """Runs programs in this test's own folder; none of their processes may outlive them."""
    runner = Commands(tmp_path, shared_folder)
    yield runner
    runner.close()
