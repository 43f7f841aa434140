"""What every test is held to: no variable, process, process group or file stays behind, and no user's cache is used."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiers import (  # noqa: F401
    _cpu_time,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_xdist_make_scheduler,
)

REPOSITORY = Path(__file__).resolve().parents[1]
_CACHES = {
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".coverage",
    ".venv",
    ".git",
    ".hypothesis",
    "build",
}
# Set by pytest itself, and by the import of torchvision.
_FOREIGN_VARIABLES = {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"}
_GRACE_S = 5.0
_SKIPPED_WITHOUT_REASON = 10  # an exit code: not that of failed tests, which are run again


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what is skipped, and why."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped.append(f"{report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where DISTTRAIN_MAY_SKIP says which reasons to skip are good ones, any other skipped test fails the session."""
    allowed = os.environ.get("DISTTRAIN_MAY_SKIP")
    if hasattr(session.config, "workerinput"):  # one of several: the one that started it has all reports
        return
    refused = [line for line in _skipped if allowed is not None and not re.search(allowed, line)]
    if refused:
        print("\nskipped, though they could run here:", *refused, sep="\n  ", file=sys.stderr)
        session.exitstatus = _SKIPPED_WITHOUT_REASON


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real PlanesNet chips and MNIST digits, which the repository does not carry."""
    if "DISTTRAIN_DATA" not in os.environ:
        pytest.skip("no real data: set DISTTRAIN_DATA to a folder with planesnet/planesnet.zip and mnist/*.gz")
    return Path(os.environ["DISTTRAIN_DATA"])


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`XDG_CACHE_HOME` in a folder of this session, and one thread for the processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # as every command has it
        patch.setenv("RES_OPTIONS", "timeout:1 attempts:5")  # likewise
        yield folder


@pytest.fixture(autouse=True)
def _no_variables_left() -> Iterator[None]:
    before = _variables()
    yield
    after = _variables()
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    for key in changed:  # so that only the test that did it fails
        os.environ.pop(key, None)
        if key in before:
            os.environ[key] = before[key]
    if changed:
        pytest.fail(f"the test has left these environment variables changed: {', '.join(changed)}")


@pytest.fixture(autouse=True)
def _no_processes_left() -> Iterator[None]:
    before = _descendants()
    yield
    deadline = time.monotonic() + _GRACE_S
    while (left := {pid: line for pid, line in _descendants().items() if pid not in before}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    if left:
        pytest.fail(f"the test has left processes running: {left}")


@pytest.fixture(autouse=True)
def _no_process_group_left() -> Iterator[None]:
    yield
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        pytest.fail("the test has left torch.distributed initialised")


@pytest.fixture(autouse=True)
def _no_files_left() -> Iterator[None]:
    folder = Path.cwd()
    before = {place: _listing(place) for place in {folder, REPOSITORY}}
    yield
    here = Path.cwd()
    os.chdir(folder)
    left = sorted(str(place / name) for place, names in before.items() for name in _listing(place) - names)
    if left:
        pytest.fail(f"the test has left files: {', '.join(left)}")
    if here != folder:
        pytest.fail(f"the test has left {here} as the working directory")


def _variables() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _FOREIGN_VARIABLES}


def _listing(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if name not in _CACHES and not name.endswith(".egg-info")}  # noqa: PTH208


def _descendants() -> dict[int, str]:
    """Command lines of the running processes below this one, by process id."""
    found: dict[int, str] = {}
    waiting = _children(os.getpid())
    while waiting:
        pid = waiting.pop()
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has ended meanwhile
            continue
        if state == "Z" or "multiprocessing.resource_tracker" in line:
            continue
        found[pid] = line
        waiting += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            pids += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except OSError:  # it has ended meanwhile, or this is not Linux
        pass
    return pids
