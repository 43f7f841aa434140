"""Trackers that fail or hang, and the names that they are told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from disttrain.config.sections import TelemetryConfig
from disttrain.telemetry.machine import Rates, Sample, Sampler
from disttrain.telemetry.trackers import RunInfo, Trackers, open_trackers
from disttrain.telemetry.trackers.base import figures


class Heard:
    """A tracker that remembers, and fails from a step on."""

    def __init__(self, name: str, fails_at: int = 1000) -> None:
        self.name, self.fails_at = name, fails_at
        self.steps: list[int] = []
        self.state = ""

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        if step >= self.fails_at:
            raise OSError("disk full")
        self.steps.append(step)

    def close(self, state: str, result: Mapping[str, float]) -> None:
        self.state = state


def line(step: int) -> dict[str, object]:
    return {"time": 1.0, "step": step, "split": "train", "loss": 0.5}


def test_a_tracker_that_fails_is_told_no_more_which_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("disttrain").propagate = True
    good, bad = Heard("good"), Heard("bad", fails_at=2)
    trackers = Trackers({"bad": lambda: bad, "good": lambda: good})
    for step in range(1, 6):
        trackers.log(line(step))
    trackers.close("finished", {})
    trackers.join()
    assert good.steps == [1, 2, 3, 4, 5]
    assert bad.steps == [1]
    assert (good.state, bad.state) == ("finished", "")
    said = [one.message for one in dict.fromkeys(caplog.records)]  # a handler may stand at two loggers
    assert said == ["bad is told no more: OSError: disk full"]


@pytest.mark.parametrize("hangs_at", ["opening", "telling"])
def test_a_tracker_that_hangs_holds_up_neither_the_training_nor_another_tracker(
    hangs_at: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("disttrain").propagate = True
    monkeypatch.setattr("disttrain.telemetry.trackers.base._MOST_WAITING", 3)
    free, good = threading.Event(), Heard("good")

    class Hanging(Heard):
        def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
            free.wait()

    def make() -> Hanging:
        if hangs_at == "opening":
            free.wait()
        return Hanging("hanging")

    trackers = Trackers({"hanging": make, "good": lambda: good})
    for step in range(100):
        trackers.log(line(step))
        while len(good.steps) <= step:  # the other one keeps up
            threading.Event().wait(0.001)
    monkeypatch.setattr("disttrain.telemetry.trackers.base._FINISH_S", 0.05)
    trackers.close("finished", {})
    trackers.join()
    free.set()
    assert good.steps == list(range(100))
    said = [one.message for one in caplog.records]
    assert [one for one in said if one.startswith("hanging does not keep up")] == said[:1]
    assert "hanging hangs and is left behind" in said[1]


def test_names_have_split_and_rank_and_texts_are_left_out() -> None:
    told = {"time": 2.0, "step": 3, "split": "telemetry", "rank": 1, "host": "n", "rss_mib": 5, "gpu_xid": [79]}
    assert figures(told) == (3, 2.0, {"telemetry/1/rss_mib": 5.0})
    parts = {**line(4), "accuracy": None, "step_ms": {"data": 1.5}}
    assert figures(parts) == (4, 1.0, {"train/loss": 0.5, "train/step_ms/data": 1.5})


def test_a_port_that_is_in_use_is_said_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import socket

    logging.getLogger("disttrain").propagate = True
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        config = TelemetryConfig(prometheus_port=taken.getsockname()[1])
        trackers = open_trackers(config, RunInfo(tmp_path, "run", "project", {}))
        trackers.close("finished", {})
        trackers.join()
    assert [one.message.partition(":")[0] for one in caplog.records] == ["prometheus is not told"]


def test_rates_are_of_counters_that_were_there_before_and_have_not_gone_back() -> None:
    rates = Rates()
    assert rates.of({"a": 1.0, "b": 9.0}) == {}
    found = rates.of({"a": 3.0, "b": 2.0, "c": 1.0})
    assert set(found) == {"a"}
    assert found["a"] > 0


def test_a_probe_that_fails_ends_the_sampling_and_nothing_else() -> None:
    asked = threading.Event()

    class Broken:
        def sample(self) -> Sample:
            asked.set()
            raise RuntimeError("gone")

        def close(self) -> None: ...

    sampler = Sampler([Broken()], 0.001, lambda sample: None)
    assert asked.wait(60)
    sampler.close()
