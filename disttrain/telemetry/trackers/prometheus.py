"""Prometheus: the last figures of a run, on a port of rank zero's host."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from disttrain.log import log
from disttrain.telemetry.trackers.base import RunInfo


class Prometheus:
    """`http://HOST:PORT/metrics`: gauges as `disttrain_train_loss{run="..."}`; those of telemetry have `rank`."""

    name = "prometheus"

    def __init__(self, info: RunInfo, port: int) -> None:
        """`port`: 0 takes one that is free. Raises OSError where it is in use."""
        self._registry, self._run = CollectorRegistry(), info.name
        self._gauges: dict[str, Gauge] = {}
        self._server, self._thread = start_http_server(port, registry=self._registry)
        self.port = int(self._server.server_port)
        log.info("metrics for Prometheus at port %d of this host", self.port)

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._set("step", "", float(step))
        for name, value in values.items():
            ranked = re.fullmatch(r"telemetry/(\d+)/(.+)", name)
            self._set(ranked.group(2), ranked.group(1), value) if ranked else self._set(name, "", value)

    def _set(self, name: str, rank: str, value: float) -> None:
        metric = "disttrain_" + re.sub(r"\W", "_", name)
        labels = {"run": self._run, **({"rank": rank} if rank else {})}
        if metric not in self._gauges:
            self._gauges[metric] = Gauge(metric, f"{name} of the last line", list(labels), registry=self._registry)
        self._gauges[metric].labels(**labels).set(value)

    def close(self, state: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
