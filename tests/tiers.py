"""Which tests run when, which share a process, and where their time goes.

`make test-fast` takes tests/unit, `make test` all but those marked `long`, `make test-long` those. Tests run in several
processes beside each other (pytest-xdist), since many of them wait: for a timeout, a restart, a signal.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]
_QUICK = ("tests/unit/", "tests/field/", "tests/k8s/")
_WHOLE_FILES = (
    *_QUICK,
    "tests/integration/test_readme.py",
    "tests/integration/test_real_planesnet.py",
    "tests/integration/test_slurm.py",
    "tests/integration/test_tune.py",
)


@functools.cache
def _group(path: str) -> str | None:
    """What must run in one process, one after the other: tests that share a training, or the pool of started ranks."""
    if path.startswith(_WHOLE_FILES):
        return path
    return "ranks" if "ranks: RankPool" in (_REPOSITORY / path).read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long groups first, what is quick last: so that no process has a long one to itself at the end."""
    items.sort(key=lambda item: (item.nodeid.startswith(_QUICK), _group(item.nodeid.partition("::")[0]) is None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups instead of pytest-xdist's scopes. Its own marks for groups do nothing with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid.partition("::")[0]) or nodeid

    return Groups(config, log)


@pytest.fixture(autouse=True)
def _cpu_time(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _cpu_s()
    yield
    request.node.user_properties.append(("cpu_s", round(_cpu_s() - before, 2)))


class RunTimes:
    """Seconds of each test file, as a table at the end and in build/test_times_<tier>.json.

    build/failed_<tier>.txt has the ids of the tests that failed, as arguments for pytest.
    """

    def __init__(self, tier: str) -> None:
        self.tier, self.began = tier, time.monotonic()
        self.wall_s: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        self.wall_s[test] += report.duration
        if report.failed and test not in self.failed:
            self.failed.append(test)
        if report.when == "teardown":
            self.cpu_s[test] += sum(
                value for name, value in report.user_properties if name == "cpu_s" and isinstance(value, float)
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files: dict[str, list[str]] = defaultdict(list)
        for test in self.wall_s:
            files[test.partition("::")[0]].append(test)
        rows = sorted(
            ((sum(self.wall_s[t] for t in tests), sum(self.cpu_s[t] for t in tests), file, len(tests))
             for file, tests in files.items()),
            reverse=True,
        )  # fmt: skip
        took_s = time.monotonic() - self.began
        terminalreporter.section(f"{self.tier}: {took_s / 60:.1f} min; seconds by file (CPU: of what has ended)")
        for wall_s, cpu_s, file, count in rows[:25]:
            terminalreporter.write_line(f"{wall_s:8.0f} s  {cpu_s:6.0f} s CPU  {count:4d} tests  {file}")
        folder = _REPOSITORY / "build"
        folder.mkdir(exist_ok=True)
        text = json.dumps(
            {
                "tier": self.tier,
                "minutes": round(took_s / 60, 2),
                "files": {file: {"wall_s": wall, "cpu_s": cpu, "tests": n} for wall, cpu, file, n in rows},
                "tests": {test: round(wall_s, 2) for test, wall_s in sorted(self.wall_s.items())},
            },
            indent=1,
        )
        (folder / f"test_times_{self.tier}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"failed_{self.tier}.txt").write_text("".join(f"{test}\n" for test in self.failed), encoding="utf-8")


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def pytest_configure(config: pytest.Config) -> None:
    """Write times where a tier is run as a whole, and not in the processes that xdist starts."""
    tier = os.environ.get("DISTTRAIN_TEST_TIER")
    if tier and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunTimes(tier), "run_times")


def part_of(file: str) -> str:
    """The part of the product that a test file belongs to, for the table of minutes."""
    path = Path(file)
    for part in ("horovod", "chaos", "unit", "field", "slurm", "tune", "k8s", "serve", "report"):
        if part in path.stem or part in path.parts:
            return part
    return "real data, README" if path.stem.startswith(("test_real_", "test_readme")) else "training"


def main() -> None:
    """Print minutes by tier and part, from the files that the tiers have written."""
    for path in sorted((_REPOSITORY / "build").glob("test_times_*.json")):
        times = json.loads(path.read_text(encoding="utf-8"))
        parts: dict[str, float] = defaultdict(float)
        for file, used in times["files"].items():
            parts[part_of(file)] += used["wall_s"] / 60
        text = ", ".join(f"{part} {minutes:.1f}" for part, minutes in sorted(parts.items(), key=lambda one: -one[1]))
        print(f"{times['tier']}: {times['minutes']:.1f} min; added up, since they run beside each other: {text}")


if __name__ == "__main__":
    main()
