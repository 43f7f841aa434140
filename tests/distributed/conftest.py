"""The ranks that wait for work, and commands in processes of their own with a hard limit on their time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Runs programs in this test's own folder; none of their processes may outlive them."""
    runner = Commands(tmp_path)
    yield runner
    runner.close()
