"""What Prometheus is told. Several processes add their figures up, through files in a folder of the server."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from disttrain.serve.shared_metrics import SHARED_FOLDER_VARIABLE, reserve_files

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        """Raises DataError where the folder of several processes has no room."""
        reserve_files()
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "disttrain_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "disttrain_request_seconds", "From the headers to the answer.", ["path"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "disttrain_batch_images", "Images computed together.", buckets=_SIZES, registry=registry
        )
        self.images = Counter("disttrain_images", "Images by what became of them.", ["outcome"], registry=registry)
        self.waiting = Gauge(
            "disttrain_waiting_images", "Images taken in and not answered.", registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.serving = Gauge(
            "disttrain_serving_processes", "Processes that answer with a model.", ["version", "weights_sha256"],
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.switches = Counter(
            "disttrain_model_switches", "Models that have taken the place of another.", registry=registry
        )
        self.refused = Gauge(
            "disttrain_model_refused", "1 while a model lies in the directory that is not taken.", registry=registry,
            multiprocess_mode="livemax",
        )  # fmt: skip

    def render(self) -> bytes:
        """The text of `/metrics`, of all processes."""
        if SHARED_FOLDER_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
